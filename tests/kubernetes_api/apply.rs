//! Server-side apply, as far as one manager of fields needs it: what it said before and says no more goes, what others wrote stays.

use serde_json::{Value, json};

/// An object after a manager applied this, who had applied `before`.
pub fn applied(mut there: Value, before: Option<Value>, wanted: &Value) -> Value {
    if let Some(before) = before {
        take_away(&mut there, &before, wanted);
    }
    merge(&mut there, wanted);
    there
}

/// Takes away what was said before and is said no more.
fn take_away(there: &mut Value, before: &Value, wanted: &Value) {
    match (there, before) {
        (Value::Object(there), Value::Object(before)) => {
            for (name, before) in before {
                match wanted.get(name) {
                    None => drop(there.remove(name)),
                    Some(wanted) => {
                        if let Some(there) = there.get_mut(name) {
                            take_away(there, before, wanted);
                        }
                    }
                }
            }
        }
        (Value::Array(there), Value::Array(before)) if before.iter().all(|one| one["port"].is_number()) => {
            let says = |list: &[Value], one: &Value| list.iter().any(|other| is_same_port(other, one));
            let wanted = wanted.as_array().unwrap();
            there.retain(|one| !says(before, one) || says(wanted, one));
        }
        _ => {}
    }
}

fn merge(there: &mut Value, wanted: &Value) {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            for (name, wanted) in wanted {
                merge(there.entry(name).or_insert(json!(null)), wanted);
            }
        }
        // A Service's ports are a map by number and protocol.
        (Value::Array(there), Value::Array(wanted))
            if wanted.iter().all(|one| one["targetPort"].is_number()) =>
        {
            for one in wanted {
                match there.iter_mut().find(|other| is_same_port(other, one)) {
                    Some(other) => merge(other, one),
                    None => there.push(one.clone()),
                }
            }
        }
        (there, wanted) => there.clone_from(wanted),
    }
}

fn is_same_port(one: &Value, other: &Value) -> bool {
    ["port", "protocol"]
        .iter()
        .all(|field| one[field] == other[field])
}
