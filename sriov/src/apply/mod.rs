//! Carries out steps, and undoes all of them when one is refused.
//!
//! ```text
//!   Plan ──► for each step: remember how it was ──► change ──► refused? ──► undo, the last one first
//! ```
//!
//! Guarantees: after an error of [`apply`] the host is as it was before, or the error names what could not be brought back.
//! Each step may be carried out again: what is so already is left alone. Nothing here looks at who holds a VF: that is
//! [`plan`](mod@crate::plan)'s, and the caller must let nothing change hands in between.

mod explain;
mod session;

use std::fmt;

use crate::PciAddress;
use crate::hardware::{Hardware, Refusal, VfSetting};
use crate::inventory::VfState;
use crate::plan::{Driver, Plan, PlanRefusal, Step, VfChange, VfTarget, VfTargetSetting};

pub use explain::meaning;
pub use session::Session;

/// Why nothing, or not all, was done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The plan cannot be carried out; nothing was changed.
    #[error("{}", Lines(.0))]
    Plan(Vec<PlanRefusal>),
    /// A step failed; what was done before it is undone.
    #[error("{error}{}", aftermath(*.undone, .left))]
    Step {
        /// What failed.
        error: Box<StepError>,
        /// How many steps were undone.
        undone: usize,
        /// What could not be undone.
        left: Vec<StepError>,
    },
}

fn aftermath(undone: usize, left: &[StepError]) -> String {
    match (undone, left) {
        (0, []) => "; nothing was changed".to_owned(),
        (1, []) => "; the change before it was undone".to_owned(),
        (undone, []) => format!("; the {undone} changes before it were undone"),
        (_, left) => format!(
            "; the changes before it were undone except these, which are left to you:\n{}",
            Lines(left)
        ),
    }
}

struct Lines<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Lines<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.0.iter().enumerate() {
            let newline = if i > 0 { "\n" } else { "" };
            write!(f, "{newline}{line}")?;
        }
        Ok(())
    }
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The kernel or the NIC's driver refused it.
    #[error("{pf}: {step} failed: {refusal}: {}", meaning(.step, .refusal.errno))]
    Refused {
        /// The physical function.
        pf: PciAddress,
        /// The step.
        step: Step,
        /// The answer.
        refusal: Refusal,
    },
    /// Nothing refused, and yet it isn't so.
    #[error("{pf}: {step} failed: afterwards {pci} has {found}; {advice}")]
    NotBound {
        /// The physical function.
        pf: PciAddress,
        /// The step.
        step: Step,
        /// The VF.
        pci: PciAddress,
        /// Its driver now.
        found: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The function, the VF or the interface is gone.
    #[error(
        "{pf}: {step} failed: {what} is not there; it may have been removed or moved just now: try again"
    )]
    Gone {
        /// The physical function.
        pf: PciAddress,
        /// The step.
        step: Step,
        /// What.
        what: &'static str,
    },
}

/// How a change is undone.
enum Undo {
    Step(Step),
    /// A VF is brought back to how it was before the first of its changes.
    Vf(PciAddress, u16, Box<VfState>),
    /// As many VFs are made again, and brought back to how they were.
    Vfs(PciAddress, Vec<(u16, VfState)>),
}

/// Carries out a plan; all of it, or nothing. Returns how many steps that took.
pub fn apply(hardware: &mut dyn Hardware, plan: &Plan) -> Result<usize, ApplyError> {
    if !plan.refused.is_empty() {
        return Err(ApplyError::Plan(plan.refused.clone()));
    }
    let steps: Vec<_> = plan.steps.iter().map(|planned| planned.step.clone()).collect();
    apply_steps(hardware, &steps)
}

/// Carries out steps; all of them, or none.
pub fn apply_steps(hardware: &mut dyn Hardware, steps: &[Step]) -> Result<usize, ApplyError> {
    let mut session = Session::new(hardware);
    let mut undo = Vec::new();
    for (done, step) in steps.iter().enumerate() {
        let result = remember(&mut session, step, &mut undo).and_then(|()| session.carry_out(step));
        if let Err(error) = result {
            let undo = undo.into_iter().rev();
            let left = undo.flat_map(|undo| take_back(&mut session, undo)).collect();
            return Err(ApplyError::Step {
                error: Box::new(error),
                undone: done,
                left,
            });
        }
    }
    Ok(steps.len())
}

/// Takes down how it is before the step. The way back changes only what is different, so a step that fails, or half of
/// it, is no special case.
fn remember(session: &mut Session<'_>, step: &Step, undo: &mut Vec<Undo>) -> Result<(), StepError> {
    match step {
        Step::NumVfs { pf, from: 0, to } => undo.push(Undo::Step(Step::NumVfs {
            pf: *pf,
            from: *to,
            to: 0,
        })),
        Step::NumVfs { pf, from, .. } => {
            let vfs = (0..*from).map(|index| Ok((index, session.state(*pf, index, step)?)));
            undo.push(Undo::Vfs(*pf, vfs.collect::<Result<_, _>>()?));
        }
        Step::Pf { pf, change } => {
            let change = session.link_as_it_is(*pf, change, step)?;
            undo.extend(change.map(|change| Undo::Step(Step::Pf { pf: *pf, change })));
        }
        Step::Vf { pf, index, .. } => {
            // What this request has made goes as a whole.
            let known = undo.iter().any(|undo| match undo {
                Undo::Vf(of, vf, _) => (of, vf) == (pf, index),
                Undo::Step(Step::NumVfs { pf: made, .. }) => made == pf,
                _ => false,
            });
            if !known {
                let state = session.state(*pf, *index, step)?;
                undo.push(Undo::Vf(*pf, *index, Box::new(state)));
            }
        }
    }
    Ok(())
}

/// Brings back what was; what fails is passed over and told.
fn take_back(session: &mut Session<'_>, undo: Undo) -> Vec<StepError> {
    match undo {
        Undo::Step(step) => session.carry_out(&step).err().into_iter().collect(),
        Undo::Vf(pf, index, state) => restore(session, pf, index, &state),
        Undo::Vfs(pf, vfs) => {
            let to = u16::try_from(vfs.len()).unwrap_or(u16::MAX);
            if let Err(error) = session.carry_out(&Step::NumVfs { pf, from: 0, to }) {
                return vec![error];
            }
            let restored = vfs
                .iter()
                .flat_map(|(index, state)| restore(session, pf, *index, state));
            restored.collect()
        }
    }
}

/// Brings a VF back to how it was, as far as it goes.
pub(crate) fn restore(
    session: &mut Session<'_>,
    pf: PciAddress,
    index: u16,
    saved: &VfState,
) -> Vec<StepError> {
    let mut failed = Vec::new();
    // Settings and driver first: the interface comes with the driver, with the MAC that was set.
    for phase in [Phase::Function, Phase::Interface] {
        match session.state(pf, index, &Step::look(pf, index)) {
            Ok(now) => {
                for change in changes_back(saved, &now, phase) {
                    let step = Step::Vf { pf, index, change };
                    failed.extend(session.carry_out(&step).err());
                }
            }
            Err(error) => failed.push(error),
        }
    }
    failed
}

/// What is restored at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Settings and driver.
    Function,
    /// The interface that the driver makes.
    Interface,
}

/// The changes from how a VF is to how it was.
pub(crate) fn changes_back(saved: &VfState, now: &VfState, phase: Phase) -> Vec<VfChange> {
    match phase {
        Phase::Function => {
            let settings = saved.admin.map(|admin| {
                let all = [
                    VfSetting::Mac(admin.mac),
                    VfSetting::Vlan {
                        vlan: 0,
                        qos: 0,
                        proto: admin.vlan_proto,
                    },
                    VfSetting::Trust(false),
                    VfSetting::Spoofchk(true),
                    VfSetting::Rate { min: 0, max: 0 },
                    VfSetting::LinkState(admin.link_state),
                ];
                // What the driver doesn't say can't be brought back.
                all.iter()
                    .filter_map(|setting| setting.as_it_is(&admin))
                    .collect()
            });
            let settings: Vec<VfSetting> = settings.unwrap_or_default();
            let target = VfTarget {
                settings: settings.into_iter().map(VfTargetSetting::Whole).collect(),
                driver: Some(Driver::of(saved)),
                netdev: Vec::new(),
            };
            target.changes(Some(now))
        }
        Phase::Interface => {
            let (Some(saved), Some(now)) = (&saved.netdev, &now.netdev) else {
                return Vec::new();
            };
            session::netdev_changes(saved, now)
                .into_iter()
                .map(VfChange::Netdev)
                .collect()
        }
    }
}

#[cfg(test)]
mod tests;
