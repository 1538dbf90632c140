//! The API server's question, and its answer (`admission.k8s.io/v1`, AdmissionReview).
//!
//! Whatever a Pod is like, it is allowed: this is about what is put into it. Only a question that is none is refused, and then by the HTTP
//! status, so that the webhook's `failurePolicy` decides what becomes of the Pod.

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::patch::Decision;
use super::pod::Pod;

/// The version that is spoken.
const VERSION: &str = "admission.k8s.io/v1";
/// Warnings of an answer. The API server gives on 4096 characters in all.
const MAX_WARNINGS: usize = 8;
/// Bytes of a warning.
const MAX_WARNING: usize = 480;

/// What is asked.
#[derive(Debug)]
pub enum Question {
    /// What becomes of a Pod that is about to be made.
    Pod {
        /// Says which question an answer is for.
        uid: String,
        /// Where it is made.
        namespace: String,
        /// The Pod.
        pod: Box<Pod>,
    },
    /// About something else, that nothing is done about.
    Other {
        /// Says which question an answer is for.
        uid: String,
    },
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum BadQuestion {
    /// It is no AdmissionReview.
    #[error("this is no AdmissionReview: {0}")]
    NotReadable(#[from] serde_json::Error),
    /// It is one of another version.
    #[error("only {VERSION} is spoken here, not {0:?}")]
    Version(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    resource: Resource,
    #[serde(default, rename = "subResource")]
    part: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Resource {
    group: String,
    resource: String,
}

/// Reads a question.
///
/// # Errors
/// It is none.
pub fn read(body: &[u8]) -> Result<Question, BadQuestion> {
    let review: Review = serde_json::from_slice(body)?;
    if review.api_version != VERSION {
        return Err(BadQuestion::Version(review.api_version));
    }
    let Request {
        uid,
        namespace,
        operation,
        resource,
        part,
        object,
    } = review.request;
    let is_pod = resource.group.is_empty() && resource.resource == "pods" && part.is_empty();
    Ok(match is_pod && operation == "CREATE" {
        true => Question::Pod {
            uid,
            namespace,
            pod: Box::new(serde_json::from_value(object)?),
        },
        false => Question::Other { uid },
    })
}

/// The answer, by what was decided; none: nothing is done.
pub fn answer(uid: &str, decision: Option<&Decision>) -> Vec<u8> {
    let mut response = json!({"uid": uid, "allowed": true});
    match decision {
        Some(Decision::Inject(operations)) => {
            let patch = Value::from(operations.as_slice()).to_string();
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(BASE64.encode(patch.as_bytes()));
        }
        Some(Decision::Leave(why)) => {
            let mut warnings = why.warnings();
            warnings.truncate(MAX_WARNINGS);
            for warning in &mut warnings {
                warning.truncate(warning.floor_char_boundary(MAX_WARNING));
            }
            if !warnings.is_empty() {
                response["warnings"] = json!(warnings);
            }
        }
        None => {}
    }
    json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response})
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::patch::Why;

    fn review(edit: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u1",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "namespace": "shop",
                "operation": "CREATE",
                "object": {"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app"}]}},
            },
        });
        edit(&mut review);
        review.to_string().into_bytes()
    }

    #[test]
    fn questions_about_new_pods_are_read() {
        let Ok(Question::Pod { uid, namespace, pod }) = read(&review(|_| {})) else {
            panic!("a Pod");
        };
        assert_eq!((uid.as_str(), namespace.as_str()), ("u1", "shop"));
        assert_eq!(pod.spec.containers[0].name, "app");
        for edit in [
            |review: &mut Value| review["request"]["operation"] = json!("UPDATE"),
            |review: &mut Value| review["request"]["resource"]["resource"] = json!("services"),
            |review: &mut Value| review["request"]["subResource"] = json!("status"),
            |review: &mut Value| review["request"]["resource"]["group"] = json!("apps"),
        ] {
            assert!(matches!(read(&review(edit)), Ok(Question::Other { .. })));
        }
    }

    #[test]
    fn what_is_no_question_is_refused() {
        for (body, part) in [
            (b"{".to_vec(), "no AdmissionReview"),
            (b"[]".to_vec(), "no AdmissionReview"),
            (
                review(|review| review["request"] = Value::Null),
                "no AdmissionReview",
            ),
            (
                review(|review| review["request"]["object"] = json!(1)),
                "no AdmissionReview",
            ),
            (
                review(|review| review["apiVersion"] = json!("admission.k8s.io/v1beta1")),
                "not \"admission.k8s.io/v1beta1\"",
            ),
        ] {
            let said = read(&body).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn answers_allow_whatever_was_decided() {
        let read = |decision: Option<&Decision>| -> Value {
            let answer: Value = serde_json::from_slice(&answer("u1", decision)).unwrap();
            assert_eq!(
                (&answer["response"]["uid"], &answer["response"]["allowed"]),
                (&json!("u1"), &json!(true))
            );
            answer["response"].clone()
        };
        assert_eq!(read(None).as_object().unwrap().len(), 2);
        let operations = vec![json!({"op": "add", "path": "/a", "value": 1})];
        let injected = read(Some(&Decision::Inject(operations.clone())));
        let patch = BASE64
            .decode(injected["patch"].as_str().unwrap().as_bytes())
            .unwrap();
        assert_eq!(serde_json::from_slice::<Vec<Value>>(&patch).unwrap(), operations);
        assert_eq!(injected["patchType"], "JSONPatch");
        let long = vec!["ä".repeat(MAX_WARNING); 2 * MAX_WARNINGS];
        let left = read(Some(&Decision::Leave(Why::Misunderstood(long))));
        let warnings = left["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), MAX_WARNINGS);
        assert!(
            warnings
                .iter()
                .all(|one| one.as_str().unwrap().len() <= MAX_WARNING)
        );
        assert_eq!(left.get("patch"), None);
    }
}
