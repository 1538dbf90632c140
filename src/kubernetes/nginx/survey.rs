//! What would carry over of the Ingresses in a directory of manifests, whatever their class: before anything is changed in a cluster.

use std::path::Path;

use super::{Annotation, PREFIX, Treatment, Wishes, annotation};
use crate::kubernetes::index::Findings;
use crate::kubernetes::manifests::Manifests;
use crate::kubernetes::objects::{Kind, Object};
use crate::kubernetes::{OpenError, Settings};

/// An Ingress and what would carry over of its annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Its namespace and name.
    pub name: String,
    /// Its class, if it says one.
    pub class: Option<String>,
    /// Whether it would be served.
    pub is_served: bool,
    /// Each annotation of ingress-nginx: its name and value, what would become of it, and what is to be said.
    pub annotations: Vec<Carried>,
}

/// What would become of an annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Its name without the prefix.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What would become of it.
    pub treatment: Treatment,
    /// As what, how it differs, or what to do instead.
    pub text: String,
}

/// Looks at all Ingresses of a directory. Reads it once, on the calling thread.
///
/// # Errors
/// A directory that cannot be read.
pub fn survey(directory: &Path) -> Result<Vec<Survey>, OpenError> {
    let (index, _) = Manifests::read(directory, Settings::default())?;
    let outcome = index.outcome();
    let all = outcome.store.of_kind(Kind::Ingress).filter_map(|(key, object)| {
        let Object::Ingress(ingress) = object else {
            return None;
        };
        let mut findings = Findings::default();
        let wishes = Wishes::of(&ingress.metadata, &mut findings);
        let annotations = ingress.metadata.annotations.iter();
        let carried = annotations.filter_map(|(name, value)| {
            let name = name.strip_prefix(PREFIX)?;
            let field = format!("metadata.annotations[{PREFIX}{name}]");
            let complaint = findings
                .complaints
                .iter()
                .find(|complaint| complaint.field == field);
            let complaint = complaint.map(|complaint| match complaint.condition() {
                Some((_, message)) => message,
                None => &complaint.reason,
            });
            let (treatment, text) = match (annotation(name), complaint) {
                (Some(known), None) if bears(known, value) => (Treatment::Needless, "it is turned off"),
                (Some(known), None) => (known.treatment, known.text),
                (Some(known), Some(complaint)) => {
                    let is_guard = wishes.unguarded.iter().any(|unguarded| unguarded == name);
                    let treatment = match known.treatment {
                        _ if is_guard => Treatment::Guard,
                        Treatment::Done | Treatment::Partly => Treatment::Missing,
                        other => other,
                    };
                    (treatment, complaint)
                }
                (None, complaint) => (
                    Treatment::Missing,
                    complaint.unwrap_or("ingress-nginx has no such annotation"),
                ),
            };
            Some(Carried {
                name: name.to_owned(),
                value: value.to_string(),
                treatment,
                text: text.to_owned(),
            })
        });
        Some(Survey {
            name: key.id.to_string(),
            class: ingress
                .metadata
                .annotation("kubernetes.io/ingress.class")
                .or(ingress.spec.ingress_class_name.as_deref())
                .map(str::to_owned),
            is_served: wishes.unguarded.is_empty(),
            annotations: carried.collect(),
        })
    });
    Ok(all.collect())
}

/// Whether an annotation that is not there for Tidegate is turned off by its value.
fn bears(known: &Annotation, value: &str) -> bool {
    matches!(known.treatment, Treatment::Missing | Treatment::Guard) && known.is_off(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_annotation_of_every_class_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let yaml = "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  annotations:
    nginx.ingress.kubernetes.io/rewrite-target: /$1
    nginx.ingress.kubernetes.io/proxy-body-size: 8m
    nginx.ingress.kubernetes.io/proxy-buffering: 'off'
    nginx.ingress.kubernetes.io/enable-modsecurity: 'false'
    nginx.ingress.kubernetes.io/auth-url: http://auth/
    nginx.ingress.kubernetes.io/load-balance: best
    nginx.ingress.kubernetes.io/rewrite-targte: /
    cert-manager.io/issuer: x
spec: {ingressClassName: nginx, rules: [{host: a.example}]}
";
        std::fs::write(directory.path().join("web.yaml"), yaml).unwrap();
        let all = survey(directory.path()).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(
            (all[0].class.as_deref(), all[0].is_served),
            (Some("nginx"), false)
        );
        let lines: Vec<_> = all[0]
            .annotations
            .iter()
            .map(|one| (one.name.as_str(), one.treatment))
            .collect();
        assert_eq!(
            lines,
            [
                ("auth-url", Treatment::Guard),
                ("enable-modsecurity", Treatment::Needless),
                ("load-balance", Treatment::Missing),
                ("proxy-body-size", Treatment::Missing),
                ("proxy-buffering", Treatment::Needless),
                ("rewrite-target", Treatment::Partly),
                ("rewrite-targte", Treatment::Missing),
            ]
        );
        let last = all[0].annotations.last().unwrap();
        assert!(last.text.contains("did you mean"), "{last:?}");
        assert!(survey(Path::new("/nonexistent")).is_err());
    }
}
