//! Regenerates the schema table from the published Go types, and the descriptions beside it. Owns the files' names; the generator owns their
//! content.

use std::path::Path;
use std::process::Command;

const TABLE: &str = "apimachinery/schema/v1.37.schema";
const DESCRIPTIONS: &str = "apimachinery/schema/v1.37.descriptions";

/// Runs the generator, which needs Go and access to its module proxy (or a module cache that has the modules).
pub fn regenerate() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent folder")?;
    let status = Command::new("go")
        .args(["run", ".", "-out"])
        .arg(root.join(TABLE))
        .arg("-descriptions")
        .arg(root.join(DESCRIPTIONS))
        .current_dir(root.join("xtask/schema-gen"))
        .status()
        .map_err(|e| format!("go run: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("the schema generator failed: {status}")) }
}
