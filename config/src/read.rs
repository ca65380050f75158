//! A spec from text and back.

use crate::decode::{Decoded, decode};
use crate::error::{ConfigError, ConfigErrors, Fault, Place, SemanticError};
use crate::tree::Tree;
use crate::{HostFacts, Problem, Spec};

impl Spec {
    /// Reads a YAML configuration and checks it. `file` is only named in errors.
    ///
    /// All that is wrong is reported: everything that is not well formed (unknown keys, wrong values), and everything
    /// that [`validate`](Spec::validate) finds. With both, findings that may only be there because a value could not be
    /// read are left out: they come, if they still do, once that is corrected. A text without any key is refused: nobody means that.
    pub fn from_yaml(text: &str, file: &str) -> Result<Spec, ConfigErrors> {
        Spec::from_yaml_on(text, file, &HostFacts::default())
    }

    /// [`from_yaml`](Spec::from_yaml) with the checks that need to know the host.
    pub fn from_yaml_on(text: &str, file: &str, host: &HostFacts) -> Result<Spec, ConfigErrors> {
        let (decoded, tree) = decoded(text, file)?;
        let Decoded { value, mut errors } = decoded;
        let findings = value.as_ref().map_or(Ok(()), |spec| spec.validate_on(host));
        let whole = errors.is_empty();
        let findings = findings.err().unwrap_or_default().into_iter();
        let findings = findings.filter(|finding| whole || stands(finding, &tree));
        errors.extend(findings.map(|finding| located(finding, &tree)));
        match value {
            Some(spec) if errors.is_empty() => Ok(spec),
            _ => Err(refused(file, errors)),
        }
    }

    /// Reads a spec that is not complete yet, without the checks of [`validate`](Spec::validate).
    pub(crate) fn read(text: &str, file: &str) -> Result<Spec, ConfigErrors> {
        match decoded(text, file)?.0 {
            Decoded {
                value: Some(spec),
                errors,
            } if errors.is_empty() => Ok(spec),
            Decoded { errors, .. } => Err(refused(file, errors)),
        }
    }

    /// The spec as YAML text that [`from_yaml`](Spec::from_yaml) reads back to an equal one, defaults written out.
    pub fn to_yaml(&self) -> Result<String, WriteError> {
        serde_saphyr::to_string(self).map_err(|error| WriteError {
            reason: error.to_string(),
        })
    }
}

/// A spec that cannot be written as text: a path in it is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot write the configuration as YAML: {reason}; paths in it must be UTF-8")]
pub struct WriteError {
    /// The serializer's reason.
    pub reason: String,
}

fn decoded(text: &str, file: &str) -> Result<(Decoded<Spec>, Tree), ConfigErrors> {
    let mut tree = Tree::parse(text).map_err(|error| refused(file, vec![*error]))?;
    // A file of another version has other keys: complaints about those would only hide the reason.
    if let Some((found, place)) = tree
        .version()
        .filter(|&(version, _)| version != u64::from(Spec::VERSION))
    {
        let fault = Fault::Semantic(Problem::Version { found });
        return Err(refused(
            file,
            vec![ConfigError {
                place: Some(place),
                path: "version".into(),
                fault,
            }],
        ));
    }
    // An empty file is one that went wrong (a template, a full disk): it must not take every port away.
    if tree.is_blank() {
        let place = Some(Place { line: 1, column: 1 });
        return Err(refused(
            file,
            vec![ConfigError {
                place,
                path: String::new(),
                fault: Fault::Blank,
            }],
        ));
    }
    Ok((decode(&mut tree), tree))
}

/// The errors in the order of the file.
fn refused(file: &str, mut errors: Vec<ConfigError>) -> ConfigErrors {
    errors.sort_by_key(|error| error.place);
    ConfigErrors {
        file: file.to_string(),
        errors,
    }
}

impl ConfigErrors {
    /// Findings about a spec that was not read from a text, so that they have no place.
    pub fn unplaced(file: &str, findings: Vec<SemanticError>) -> ConfigErrors {
        let errors = findings
            .into_iter()
            .map(|SemanticError { path, problem }| ConfigError {
                place: None,
                path: path.to_string(),
                fault: Fault::Semantic(problem),
            })
            .collect();
        ConfigErrors {
            file: file.to_string(),
            errors,
        }
    }
}

/// Whether a finding is one whatever could not be read.
fn stands(finding: &SemanticError, tree: &Tree) -> bool {
    match &finding.problem {
        // Without one of its items a list has other numbers, and what was not read of one may tell it from another.
        _ if tree.has_pruned_list(finding.path.steps()) => false,
        // What is named may be there, and be what could not be read.
        Problem::NoSuch { section, .. } => !tree.has_pruned_in(section),
        problem => problem.stands_alone(),
    }
}

/// Gives a finding its place in the file.
fn located(finding: SemanticError, tree: &Tree) -> ConfigError {
    ConfigError {
        place: Some(tree.locate(finding.path.steps())),
        path: finding.path.to_string(),
        fault: Fault::Semantic(finding.problem),
    }
}
