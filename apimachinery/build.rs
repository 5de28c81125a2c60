//! Collects the descriptions of the API's types and fields from the sources of the k8s-openapi crate, which carry
//! them as `json_schema!` literals, into one compressed file in `OUT_DIR`, together with those that the crate lacks, which the generator
//! of the schema table has written beside it.
//!
//! The file's lines are `=` + definition + tab + description, followed by field + tab + description, with newlines
//! and backslashes in descriptions escaped as `\n` and `\\`; a field's name with `+` in front has what its values mean. Only definitions of
//! the schema table are kept, and those of types that are no structs, which the table knows by name only.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TABLE: &str = "schema/v1.37.schema";
const LACKING: &str = "schema/v1.37.descriptions";
const SOURCES: &str = "src/v1_37";
/// Types that are no structs, as the documents call them.
const SIMPLE: [&str; 7] = [
    "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
];

type Descriptions = BTreeMap<String, BTreeMap<String, String>>;

fn main() -> Result<(), Box<dyn Error>> {
    // The sources are those of a published crate version, which changes only with the manifests.
    for file in ["build.rs", TABLE, LACKING, "Cargo.toml", "../Cargo.lock"] {
        let mut out = std::io::stdout();
        writeln!(out, "cargo::rerun-if-changed={file}")?;
    }
    let known: BTreeSet<String> = fs::read_to_string(TABLE)?
        .lines()
        .filter_map(|l| l.strip_prefix("=\t"))
        .filter_map(|l| l.split('\t').next().map(str::to_owned))
        .chain(SIMPLE.map(str::to_owned))
        .collect();
    let mut found = Descriptions::new();
    walk(&k8s_openapi()?.join(SOURCES), &mut |text| collect(text, &known, &mut found))?;
    if found.len() < known.len() / 2 {
        return Err(format!("k8s-openapi describes only {} of {} definitions: has its layout changed?", found.len(), known.len()).into());
    }
    complete(&fs::read_to_string(LACKING)?, &mut found);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?).join("descriptions.gz");
    let mut gz = flate2::write::GzEncoder::new(fs::File::create(out)?, flate2::Compression::best());
    for (definition, fields) in &mut found {
        // The line that opens a definition stands also where nothing is said of it.
        fields.entry(String::new()).or_default();
        for (field, text) in fields {
            let name = if field.is_empty() { format!("={definition}") } else { field.clone() };
            writeln!(gz, "{name}\t{}", text.replace('\\', "\\\\").replace('\n', "\\n"))?;
        }
    }
    gz.finish()?;
    Ok(())
}

/// Adds the descriptions of a text in the form of the file that is written.
fn complete(text: &str, found: &mut Descriptions) {
    let mut definition = "";
    for (name, description) in text.lines().filter_map(|line| line.split_once('\t')) {
        let field = match name.strip_prefix('=') {
            Some(opened) => {
                definition = opened;
                ""
            }
            None => name,
        };
        if !description.is_empty() {
            let description = description.replace("\\n", "\n").replace("\\\\", "\\");
            found.entry(definition.to_owned()).or_default().insert(field.to_owned(), description);
        }
    }
}

/// The folder of the k8s-openapi crate that this crate is built with.
fn k8s_openapi() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = env::var_os("CARGO").ok_or("no CARGO")?;
    let target = env::var("TARGET")?;
    let output = Command::new(cargo).args(["metadata", "--format-version=1", "--offline", "--filter-platform", &target]).output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let package = packages.iter().find(|p| p["name"] == "k8s-openapi").ok_or("k8s-openapi is not a dependency")?;
    let manifest = package["manifest_path"].as_str().ok_or("k8s-openapi has no manifest path")?;
    Ok(Path::new(manifest).parent().ok_or("a manifest without a folder")?.to_owned())
}

fn walk(folder: &Path, each: &mut impl FnMut(&str)) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, each)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            each(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// Reads one source file. The literals are machine-written, so the indentation tells a definition's own description
/// (12 columns), a property's name (16) and a property's description (20) apart.
fn collect(text: &str, known: &BTreeSet<String>, found: &mut Descriptions) {
    let mut lines = text.lines();
    let mut definition = None;
    let mut property = "";
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("fn schema_name()") {
            definition = lines.next().and_then(|l| l.trim().strip_prefix('"')).and_then(|l| l.split('"').next());
            property = "";
            continue;
        }
        let Some(name) = definition.filter(|d| known.contains(*d)) else { continue };
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if indent == 16 && content.starts_with('"') && content.ends_with('{') {
            property = content[1..].split('"').next().unwrap_or_default();
        }
        let literal = content
            .strip_prefix("\"description\": ")
            .or_else(|| content.strip_prefix("schema_obj.ensure_object().insert(\"description\".into(), "));
        let field = match indent {
            12 => "",
            20 if !property.is_empty() => property,
            _ => continue,
        };
        if let Some(value) = literal.and_then(unquote) {
            found.entry(name.to_owned()).or_default().entry(field.to_owned()).or_insert(value);
        }
    }
}

/// The value of the string literal that the text starts with.
fn unquote(text: &str) -> Option<String> {
    let mut chars = text.strip_prefix('"')?.chars();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                '0' => out.push('\0'),
                'u' => {
                    let hex: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    out.push(char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?);
                }
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}
