//! Tests of the way from a worker's handle to the target.
