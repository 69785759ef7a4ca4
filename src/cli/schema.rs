//! `bookend schema`.

use clap::{Args, ValueEnum};

use super::error::Failure;
use super::{Done, print};
use crate::model::record::{Record, TaskRecord};

/// Record files with a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// status.json
    Status,
    /// run.json
    #[default]
    Run,
    /// task.json
    Task,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Which file's
    #[arg(value_enum, default_value_t)]
    pub kind: SchemaKind,
}

/// Prints a JSON Schema.
///
/// # Errors
/// As [`print`].
pub fn run(args: &SchemaArgs) -> Result<Done, Failure> {
    let mut schema = match args.kind {
        SchemaKind::Status | SchemaKind::Run => schemars::schema_for!(Record),
        SchemaKind::Task => schemars::schema_for!(TaskRecord),
    };
    let file = match args.kind {
        SchemaKind::Status => "status.json",
        SchemaKind::Run => "run.json",
        SchemaKind::Task => "task.json",
    };
    schema.insert("title".to_owned(), file.into());
    if args.kind == SchemaKind::Run {
        demand_an_end(&mut schema);
    }
    let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    print(format!("{text}\n").as_bytes())?;
    Ok(Done::with(0))
}

/// Names of the fields that a record can have.
#[must_use]
pub fn fields() -> Vec<String> {
    let schema = schemars::schema_for!(Record);
    let properties = schema.get("properties").and_then(|p| p.as_object());
    properties.map(|p| p.keys().cloned().collect()).unwrap_or_default()
}

/// A final record says how the run ended, when or between when, and who wrote it.
fn demand_an_end(schema: &mut schemars::Schema) {
    let over = serde_json::json!({ "enum": ["completed", "failed", "stopped", "lost"] });
    if let Some(properties) = schema.ensure_object().get_mut("properties").and_then(|p| p.as_object_mut()) {
        properties.insert("status".to_owned(), over);
    }
    let seen = ["completed_at", "ended_between"].map(|name| serde_json::json!({ "required": [name] }));
    schema.ensure_object().insert("anyOf".to_owned(), seen.to_vec().into());
    let required = schema.ensure_object().entry("required").or_insert_with(|| serde_json::json!([]));
    if let Some(list) = required.as_array_mut() {
        list.extend(["exit_reason", "wrapper_exit_code", "author"].map(Into::into));
    }
}
