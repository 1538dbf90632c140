//! Tests of the demo as a whole.
