//! Losses that somebody has accepted: what a restore will not bring back, and is saved without nevertheless.

use oci_spec::runtime::Spec;

use super::{CHECKS, Check, Finding, Findings, Severity};
use crate::checkpoint::manifest::AcceptedLoss;
use crate::error::{Error, Result};

/// The annotation of config.json that accepts losses: names of checks, separated by commas.
pub const ACCEPT: &str = "dev.hiber.accept";

/// Which losses are accepted, and which were met.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accepted {
    checks: Vec<&'static Check>,
    pub(crate) met: Vec<AcceptedLoss>,
    /// Warnings that are logged already: some things are looked at again when all is frozen.
    warned: Vec<String>,
}

impl Accepted {
    /// Those of the caller's `names`, and of config.json's annotation.
    ///
    /// # Errors
    /// A name is not that of a loss; those are listed.
    pub(crate) fn of(names: &[String], spec: &Spec) -> Result<Self> {
        let mut accepted = Self::default();
        for name in names {
            accepted.checks.push(loss(name, "--accept")?);
        }
        let annotated = spec.annotations().as_ref().and_then(|all| all.get(ACCEPT)).map(String::as_str);
        for name in annotated.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
            accepted.checks.push(loss(name, &format!("annotations.{ACCEPT}"))?);
        }
        Ok(accepted)
    }

    fn has(&self, finding: &Finding) -> bool {
        finding.severity == Severity::Loss && self.checks.iter().any(|check| check.name == finding.check)
    }

    /// Refuses what makes a checkpoint fail, and each loss that is not accepted; those that are, and warnings, are logged.
    pub(super) fn judge(&mut self, findings: &Findings) -> Result<()> {
        let mut all: Vec<_> = findings.0.iter().filter(|found| found.severity <= Severity::Warning).collect();
        // Errors first: nobody can accept those.
        all.sort_by_key(|found| found.severity);
        for found in all {
            if self.has(found) {
                tracing::warn!("accepted as a loss: {found}");
                let loss = AcceptedLoss { check: found.check.into(), what: found.to_string() };
                if !self.met.contains(&loss) {
                    self.met.push(loss);
                }
            } else if found.severity == Severity::Loss {
                let (name, advice) = (found.check, &found.advice);
                return Err(Error::Invalid(format!("{found}; {advice}; --accept {name} does without")));
            } else if found.severity == Severity::Error {
                return Err(Error::Invalid(format!("{found}; {}", found.advice)));
            } else {
                let warning = found.to_string();
                if !self.warned.contains(&warning) {
                    tracing::warn!("{warning}");
                    self.warned.push(warning);
                }
            }
        }
        Ok(())
    }

    /// An accepted loss does not stop the checkpoint.
    pub(super) fn mark(&self, findings: &mut Findings) {
        for found in findings.0.iter_mut().filter(|found| self.has(found)) {
            found.severity = Severity::Warning;
            found.advice = "nothing: that was accepted".into();
        }
    }
}

fn loss(name: &str, given: &str) -> Result<&'static Check> {
    let is_loss = |check: &&&Check| check.severity == Severity::Loss;
    CHECKS.iter().copied().filter(|check| is_loss(&check)).find(|check| check.name == name).ok_or_else(|| {
        let names: Vec<_> = CHECKS.iter().filter(is_loss).map(|check| check.name).collect();
        Error::Invalid(format!(
            "{given}: {name:?} is no loss that can be accepted; expected {}",
            names.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::{NETWORK_PART, TCP};
    use super::*;

    fn spec(annotation: &str) -> Spec {
        let json = serde_json::json!({"ociVersion": "1.2.0", "annotations": {ACCEPT: annotation}});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_name_that_is_no_loss_is_refused_with_those_that_are() {
        for (flag, annotation, given) in
            [("tcp-connection", "", "--accept"), ("network-part", "x", "annotations.dev.hiber.accept")]
        {
            let error = Accepted::of(&[flag.to_owned()], &spec(annotation)).unwrap_err().to_string();
            assert!(
                error.starts_with(given) && error.contains("expected ") && error.contains("network-part")
            );
        }
        assert!(Accepted::of(&["".to_owned()], &spec("")).is_err());
    }

    #[test]
    fn only_what_is_named_is_accepted_by_flag_or_annotation() {
        let mut findings = Findings::default();
        findings.add(&NETWORK_PART, "it asks");
        let mut none = Accepted::of(&[], &spec(" , ")).unwrap();
        let error = none.judge(&findings).unwrap_err().to_string();
        assert!(error.contains("--accept network-part"), "{error}");
        for (flag, annotation) in [(vec!["network-part".to_owned()], ""), (vec![], " network-part,")] {
            let mut accepted = Accepted::of(&flag, &spec(annotation)).unwrap();
            accepted.judge(&findings).unwrap();
            assert_eq!(accepted.met, [AcceptedLoss { check: "network-part".into(), what: "it asks".into() }]);
            findings.add(&TCP, "a connection");
            assert!(accepted.judge(&findings).is_err());
            findings.0.pop();
        }
    }
}
