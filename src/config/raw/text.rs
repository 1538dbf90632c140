//! Texts with a grammar of their own: units, addresses, statuses. Read by [`crate::config::units`];
//! the patterns here are for editors, which show them while the user types.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::config::place::{Place, Placed, Word};

macro_rules! text {
    ($(#[doc = $doc:literal])* $name:ident, $schema:tt) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Placed<Word>);

        impl $name {
            /// The text.
            pub fn text(&self) -> &str {
                &self.0.value.0
            }

            /// Its place.
            pub fn place(&self) -> Place {
                self.0.place
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = json_schema!($schema);
                schema.insert("description".to_owned(), concat!($($doc),*).trim().into());
                schema
            }
        }
    };
}

text!(
    /// A time with units: `250ms`, `1s`, `1m30s`, `2h`.
    DurationText,
    { "type": "string", "pattern": "^([0-9]+(h|m|s|ms|us))+$" }
);
text!(
    /// A time with units, or `none` for no bound: `250ms`, `1m30s`, `none`.
    DurationOrNone,
    { "type": "string", "pattern": "^(none|([0-9]+(h|m|s|ms|us))+)$" }
);
text!(
    /// A size in bytes: `64KiB`, `1MiB`, `512B`, or a bare number of bytes.
    SizeText,
    { "type": ["string", "integer"], "minimum": 0, "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$" }
);
text!(
    /// A share: `20%`, `0.5%`.
    PercentText,
    { "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,4})?%$" }
);
text!(
    /// Where to listen: `:8080`, `*:80` (quoted), `127.0.0.1:3000`, `[::1]:80` (quoted).
    ListenAddress,
    { "type": "string", "pattern": "^(\\*|[0-9.]+|\\[[0-9a-fA-F:.]+\\])?:[0-9]+$" }
);
text!(
    /// An IP address with a port: `10.0.0.1:3000`, `[fd00::1]:3000` (quoted).
    EndpointAddress,
    { "type": "string", "pattern": "^([0-9.]+|\\[[0-9a-fA-F:.]+\\]):[0-9]+$" }
);
text!(
    /// An IP address or a name, with a port: `10.0.0.1:3000`, `app.internal:3000`, `[fd00::1]:3000` (quoted).
    EndpointPlaceText,
    { "type": "string", "pattern": "^([0-9A-Za-z._-]+|\\[[0-9a-fA-F:.]+\\]):[0-9]+$" }
);
text!(
    /// A network: `10.0.0.0/8`, `fd00::/8`, or one address.
    NetworkText,
    { "type": "string", "pattern": "^[0-9a-fA-F:.]+(/[0-9]+)?$" }
);
text!(
    /// Statuses and ranges of them: `200`, `200-299`, `200-299,401`.
    StatusRanges,
    { "type": ["string", "integer"], "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?(,[1-5][0-9]{2}(-[1-5][0-9]{2})?)*$" }
);
text!(
    /// `"1.2"` or `"1.3"`, in quotes.
    TlsVersionText,
    { "type": "string", "pattern": "^1\\.[23]$" }
);
text!(
    /// What is worth another try: `connect-failure`, `reset`, `timeout`, a status like `503`, or a gRPC status like `grpc-unavailable`.
    RetryCondition,
    { "type": ["string", "integer"], "pattern": "^(connect-failure|reset|timeout|[45][0-9]{2}|grpc-[a-z-]+)$" }
);
text!(
    /// A percentage of 101 or more, or `none`: `150%`, `none`.
    ExcessText,
    { "type": "string", "pattern": "^(none|[0-9]+%)$" }
);
text!(
    /// So many requests, as many as make answers no slower, or no bound: `200`, `adaptive`, `none`.
    ConcurrencyText,
    { "type": ["string", "integer"], "pattern": "^(none|adaptive|[0-9]+)$" }
);
text!(
    /// A part of the request: `source`, `path`, `header:x-user`, `cookie:session`.
    HashText,
    { "type": "string", "pattern": "^(source|path|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+)$" }
);
text!(
    /// What requests have in common: `cookie`, `source`, `header:x-user`.
    AffinityText,
    { "type": "string", "pattern": "^(cookie|source|header:[!#$%&'*+.^_`|~0-9A-Za-z-]+)$" }
);
