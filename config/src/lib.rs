//! The typed configuration: defaults, validation, JSON schema.
