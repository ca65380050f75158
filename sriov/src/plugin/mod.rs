//! The kubelet's device plugin: pools of functions and of fast-path ports that pods ask for by name.
//!
//! ```text
//!   pools (config) ──► read ─┐
//!   Candidate (inventory) ───┼─► assign ─► server: ListAndWatch, GetPreferredAllocation (prefer), Allocate (give)
//!   holdings (podresources) ─┘      └────► files: device information, CDI
//!                                   run: all of it, and the registration (kubelet)
//! ```
//!
//! Guarantees: what a pod holds stays in its pool as long as it exists; what does not exist is neither advertised nor given; a kubelet that
//! starts again gets every resource again. Left to the caller: the list of candidates, whole and anew after each change, without what
//! no pod may get; the sockets in the folders that pods see. Everything runs in [`run()`], on whatever tokio runtime that is polled; nothing
//! blocks for longer than small files take.

pub mod api;
mod assign;
mod candidate;
mod files;
mod give;
mod kubelet;
mod podresources;
mod pool;
pub mod pools;
mod prefer;
mod run;
mod server;

pub use assign::{Device, Devices, Held, assign};
pub use candidate::{Candidate, IommuGroup, Rdma};
pub use give::{Folders, GiveError, HAND_OVER_SOCKET, PLACE_SOCKET, cdi, device_info, give};
pub use podresources::{Holding, PodResourcesError, holdings};
pub use pool::{Functions, Kind, Policy, Pool, Selector, place_folder};
pub use prefer::prefer;
pub use run::{Options, PluginError, run};

#[cfg(test)]
mod tests {
    use super::api::v1beta1::{AllocateResponse, ContainerAllocateResponse, Device};
    use prost::Message;

    /// Numbers and wire types as the documented interface has them: what another implementation reads.
    #[test]
    fn messages_have_the_documented_numbers() {
        let device = Device {
            id: "a".into(),
            health: "Healthy".into(),
            topology: None,
        };
        assert_eq!(device.encode_to_vec(), b"\x0a\x01a\x12\x07Healthy");
        let container = ContainerAllocateResponse {
            cdi_devices: vec![super::api::v1beta1::CdiDevice { name: "v/c=n".into() }],
            ..Default::default()
        };
        let response = AllocateResponse {
            container_responses: vec![container],
        };
        assert_eq!(response.encode_to_vec(), b"\x0a\x09\x2a\x07\x0a\x05v/c=n");
    }
}
