//! What is wrong with a manifest, said so that its author knows which line to change.

use std::fmt;

/// One field that cannot be as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path of the field from the root of the resource, as the API server writes it.
    pub field: String,
    pub message: String,
}

impl Problem {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Everything that is wrong with a manifest, found in one go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Problems(pub Vec<Problem>);

/// Collects problems while a manifest is checked.
#[derive(Debug, Default)]
pub struct Findings(Vec<Problem>);

impl Findings {
    /// Notes a problem with `field` when `wrong`.
    pub fn refuse_if(&mut self, wrong: bool, field: &str, message: &str) {
        if wrong {
            self.0.push(Problem::new(field, message));
        }
    }

    pub fn push(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem::new(field, message));
    }

    pub fn or_problems<T>(self, value: T) -> Result<T, Problems> {
        if self.0.is_empty() { Ok(value) } else { Err(Problems(self.0)) }
    }
}
