//! The JSON schema of the file, for editors and for [`super::shape`].
//!
//! Draft 7, because that is what the YAML language server reads. The committed copy in
//! `config/schema.json` is what the examples' first lines name; a test keeps it current.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::raw::RawConfig;

/// The schema, made once.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<RawConfig>()
        .to_value()
});

/// The schema as a value.
pub fn value() -> &'static Value {
    &SCHEMA
}

/// The schema as a text, indented, with a newline at its end.
pub fn text() -> String {
    format!("{:#}\n", *SCHEMA)
}
