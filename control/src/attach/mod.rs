//! Attachments: ports that pods and guests were given through the CNI plugin, from the request to the end of the pod.
//!
//! ```text
//!   API thread ── add, remove, look, collect ──► Manager ──► store: what is to be, before it is
//!                                                   │   └──► ipam: addresses
//!                                                   └──► Ground: namespace, interface, port      (each step can be repeated)
//!
//!   add:     record `adding` + lease │ interface · addresses · port · announcement │ record `ready`
//!   remove:  record `removing`       │ port · interface                            │ no record, no lease
//!
//!   VF:      the record has how it was before; its steps are settings · into the pod │ back from the pod · as it was
//! ```
//!
//! Guarantees: what exists on the host for an attachment has a record, written before it and removed after it; so after a
//! crash at any point the next start takes back what was being added and ends what was being removed (`Manager::finish`).
//! An attachment that could not be added left nothing behind, or a record that says what to remove. Two requests for one
//! attachment wait for each other, those for others do not.
//!
//! | file | what |
//! | --- | --- |
//! | `manager` | the steps and their order |
//! | `known` | what is known of one, and the port and the interface that follow from it |
//! | `ground` | what each step does on this host |
//! | `ipam` | who has which address |
//! | `kept` | the configuration that was applied |
//! | `vf` | the VFs of this host: leases, settings |
//! | `watch` | what has changed behind our back, and how it is put right |
//!
//! Left to the caller: to call from threads that may wait (each step asks the kernel or the control thread).

mod ground;
mod ipam;
mod kept;
mod known;
mod manager;
#[cfg(test)]
mod tests;
mod vf;
mod watch;

pub(crate) use ground::HostGround;
pub(crate) use manager::{AttachError, Manager};
pub(crate) use watch::Watch;
