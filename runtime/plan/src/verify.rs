//! stub

/// stub
#[derive(Debug)]
pub struct PlanError;
