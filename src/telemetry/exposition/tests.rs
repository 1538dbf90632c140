//! Tests of what is exposed.
