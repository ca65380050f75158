//! Ports that are TAPs: opened, followed, and changed while they are open.

use clearway_config::{Name, Port};
use clearway_io::AnyPort;

use super::control::Control;
use super::groups::Need;
use super::open::{Open, OpenError, Opener, plain};
use super::ports::PortState;
use crate::host::tap::{self, Look, Tap, Wanted};
use crate::reconcile::Action;

impl From<tap::OpenError> for OpenError {
    fn from(error: tap::OpenError) -> Self {
        match error {
            tap::OpenError::Host(error) => error.into(),
            error if error.passes() => Self::Wait(error.to_string()),
            error => Self::Fatal(error.to_string()),
        }
    }
}

impl Opener<'_> {
    pub(super) fn tap(&mut self, port: &Port, need: &Need) -> Result<Open, OpenError> {
        let wanted = Wanted::of(port);
        let (device, tap) = Tap::open(&wanted)?;
        let place = self.groups.enter(self.engine, need)?;
        let Some(group) = self.groups.sockets(&place) else {
            return Err(OpenError::Fatal("the group of the port is gone".to_owned()));
        };
        let ports = device.ports(group.umem()).into_iter();
        let mut open = plain(Some(place));
        open.queues = (0..wanted.queues).collect();
        let ports = ports.map(|port| AnyPort::Tap(Box::new(port)));
        open.pending = open.queues.iter().copied().zip(ports).collect();
        open.tap = Some(tap);
        Ok(open)
    }
}

impl Control {
    /// Looks what became of the TAPs: those in other namespaces are in no list of interfaces that is followed.
    pub(super) fn look_at_taps(&mut self) {
        let mut gone = Vec::new();
        let mut changed = false;
        for (name, entry) in &mut self.ports {
            let PortState::Open(open) = &mut entry.state else {
                continue;
            };
            let Some(tap) = &mut open.tap else { continue };
            let before = tap.why_down();
            match tap.look() {
                Look::Same => {}
                Look::Changed => changed = true,
                Look::Gone(reason) => gone.push((name.clone(), reason)),
            }
            match tap.why_down() {
                now if now == before => {}
                Some(reason) => tracing::warn!(port = %name, reason, "down"),
                None => tracing::info!(port = %name, "up"),
            }
        }
        for (name, reason) in gone {
            self.take_down(&name, &OpenError::Wait(reason));
        }
        if changed {
            self.republish();
        }
    }

    /// Gives TAPs that stay open what the configuration now says of their interface.
    pub(super) fn change_taps(&mut self, actions: &[Action]) {
        let names = actions.iter().filter_map(|action| match action {
            Action::ChangePort(name, _) => Some(name),
            _ => None,
        });
        for name in names {
            self.change_tap(name);
        }
        self.republish();
    }

    fn change_tap(&mut self, name: &Name) {
        let (Some(port), Some(entry)) = (self.spec.ports.get(name), self.ports.get_mut(name)) else {
            return;
        };
        if let PortState::Open(open) = &mut entry.state
            && let Some(tap) = &mut open.tap
            && let Err(error) = tap.set(port.mac, port.mtu.map(u32::from))
        {
            tracing::error!(port = %name, %error, "its interface stays as it was");
        }
    }
}
