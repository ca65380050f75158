//! Stub.
use crate::store::Change;
use clearway_config::attach::{Addresses, AttachmentId, Pod};
use clearway_config::{AddressPool, Name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases;
pub(crate) struct Holder {
    pub(crate) id: AttachmentId,
    pub(crate) pod: Option<Pod>,
}
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub(crate) struct IpamError;
impl IpamError {
    pub(crate) fn is_missing(&self) -> bool {
        false
    }
}
#[derive(Serialize, Deserialize)]
pub(crate) struct LeaseRecord;
#[derive(Serialize, Deserialize)]
pub(crate) struct StickyRecord;
impl Leases {
    pub(crate) fn restore(_: Vec<LeaseRecord>, _: Vec<StickyRecord>) -> Self {
        Self
    }
    pub(crate) fn allocate(
        &mut self,
        _: &BTreeMap<Name, AddressPool>,
        _: Option<&Name>,
        _: &Holder,
        _: &[IpAddr],
    ) -> Result<(Addresses, Vec<Change>), IpamError> {
        Err(IpamError)
    }
    pub(crate) fn release(&mut self, _: &AttachmentId) -> Vec<Change> {
        Vec::new()
    }
    pub(crate) fn has_room(
        &self,
        _: &BTreeMap<Name, AddressPool>,
        _: Option<&Name>,
    ) -> Result<(), IpamError> {
        Ok(())
    }
    pub(crate) fn check(&self, _: &BTreeMap<Name, AddressPool>) -> Result<(), IpamError> {
        Ok(())
    }
}
