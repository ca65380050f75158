//! The reference of all keys, as Markdown, made from the JSON schema: it cannot say anything else than the types do.

use std::fmt::Write;

use serde_json::Value;

use crate::schema::json_schema;

/// The sections of the reference: the type in the schema, its heading, where it is written.
const SECTIONS: &[(&str, &str, &str)] = &[
    ("Spec", "The document", "the top of the file"),
    ("Engine", "Engine", "`engine`"),
    ("Worker", "Worker", "an item of `engine.workers`"),
    ("Api", "API", "`api`"),
    ("Port", "Port", "`ports.NAME`"),
    (
        "TrunkMap",
        "Mapped VLAN",
        "an item of `ports.NAME.trunk` that is an object",
    ),
    ("StormControl", "Storm control", "`ports.NAME.storm-control`"),
    ("RateLimit", "Rate limits", "`ports.NAME.rate-limit`"),
    (
        "Rate",
        "Rate limit of one direction",
        "`ports.NAME.rate-limit.receive` and `.transmit`",
    ),
    ("BridgeDomain", "Bridge domain", "`bridge-domains.NAME`"),
    (
        "StaticMac",
        "Static MAC address",
        "an item of `bridge-domains.NAME.static`",
    ),
    ("Host", "Host", "an item of `bridge-domains.NAME.hosts`"),
    ("Damping", "Move damping", "`bridge-domains.NAME.move-damping`"),
    ("Vtep", "VTEP", "`vteps.NAME`"),
    ("AddressPool", "Address pool", "`address-pools.NAME`"),
    (
        "PoolSubnet",
        "Subnet of a pool",
        "an item of `address-pools.NAME.subnets`",
    ),
    (
        "PoolRoute",
        "Route of a pool",
        "an item of `address-pools.NAME.routes`",
    ),
    (
        "Reservation",
        "Reservation",
        "an item of `address-pools.NAME.reservations`",
    ),
    ("Sriov", "SR-IOV", "`sriov`"),
    ("Pf", "Physical function", "`sriov.pfs.NAME`"),
    ("VfRange", "VFs", "an item of `sriov.pfs.NAME.ranges`"),
];

/// The reference of every key of a configuration file: a table for each object with key, type, default and meaning.
/// `docs/config.md` is this text.
pub fn reference_markdown() -> String {
    let schema = json_schema();
    let mut out = String::from(
        "# Configuration reference\n\n\
         Generated from the types in `config/src`; do not edit. Commented examples are in `config/examples`; \
         `clearway schema` prints the JSON schema for editors, `clearway validate FILE` checks a file.\n\n\
         A configuration is one YAML 1.2 document. Unknown keys are refused. A key in **bold** has no default and must \
         be there. A default of — means absent; what that does stands in the meaning.\n",
    );
    for (definition, heading, place) in SECTIONS {
        let object = if *definition == "Spec" {
            &schema
        } else {
            &schema["$defs"][definition]
        };
        section(&mut out, &schema, object, heading, place);
    }
    out
}

fn section(out: &mut String, schema: &Value, object: &Value, heading: &str, place: &str) {
    let _ = write!(
        out,
        "\n## {heading}\n\nWritten at: {place}. {}\n\n",
        text(&object["description"])
    );
    out.push_str("| Key | Value | Default | Meaning |\n| --- | --- | --- | --- |\n");
    let required = |key: &str| {
        object["required"]
            .as_array()
            .is_some_and(|keys| keys.iter().any(|k| k == key))
    };
    let Some(properties) = object["properties"].as_object() else {
        return;
    };
    for (key, property) in properties {
        let key = if required(key) {
            format!("**`{key}`**")
        } else {
            format!("`{key}`")
        };
        let _ = writeln!(
            out,
            "| {key} | {} | {} | {} |",
            kind(schema, property).replace('|', "\\|"),
            default(property),
            meaning(schema, property).replace('|', "\\|"),
        );
    }
}

/// A description as one line.
fn text(description: &Value) -> String {
    description
        .as_str()
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn resolve<'a>(schema: &'a Value, property: &'a Value) -> &'a Value {
    match property["$ref"]
        .as_str()
        .and_then(|path| path.strip_prefix("#/$defs/"))
    {
        Some(name) => &schema["$defs"][name],
        None => property,
    }
}

/// What may be written, in words.
fn kind(schema: &Value, property: &Value) -> String {
    for (definition, words) in [("Name", "name"), ("Period", "duration")] {
        if property["$ref"].as_str() == Some(&format!("#/$defs/{definition}")) {
            return words.into();
        }
    }
    let resolved = resolve(schema, property);
    if let Some(word) = resolved["const"].as_str() {
        return format!("`{word}`");
    }
    let nullable = |value: &Value| value["type"] == "null";
    if let Some(words) = resolved["enum"].as_array() {
        return words
            .iter()
            .filter_map(Value::as_str)
            .map(|w| format!("`{w}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(all) = resolved[key].as_array() {
            let separator = if all.iter().all(|one| one["const"].is_string()) {
                ", "
            } else {
                " or "
            };
            let all = all
                .iter()
                .filter(|one| !nullable(one))
                .map(|one| kind(schema, one));
            return all.collect::<Vec<_>>().join(separator);
        }
    }
    let types = match &resolved["type"] {
        Value::Array(types) => types
            .iter()
            .filter_map(Value::as_str)
            .find(|&name| name != "null"),
        name => name.as_str(),
    };
    match types {
        Some("integer") => number(resolved),
        Some("boolean") => "`true`, `false`".into(),
        Some("array") if resolved["prefixItems"].is_array() => "list of two names".into(),
        Some("array") => format!("list of: {}", kind(schema, &resolved["items"])),
        Some("object") if resolved["properties"].is_object() => "object".into(),
        Some("object") => {
            let values = match (&resolved["additionalProperties"], &resolved["patternProperties"]) {
                (Value::Object(_), _) => Some(&resolved["additionalProperties"]),
                (_, Value::Object(patterns)) => patterns.values().next(),
                _ => None,
            };
            format!(
                "map to: {}",
                values.map_or("anything".into(), |values| kind(schema, values))
            )
        }
        Some("string") => match resolved["format"].as_str() {
            Some("ip") => "IP address".into(),
            Some("mac") => "MAC address".into(),
            Some("subnet") => "subnet".into(),
            Some("ip-range") => "address or range".into(),
            _ => "text".into(),
        },
        _ => "anything".into(),
    }
}

fn number(property: &Value) -> String {
    match (property["minimum"].as_u64(), property["maximum"].as_u64()) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("number from {min}"),
        _ => "number".into(),
    }
}

fn default(property: &Value) -> String {
    match &property["default"] {
        Value::Null => "—".into(),
        Value::Object(_) => "its keys' defaults".into(),
        Value::String(word) => format!("`{word}`"),
        other => format!("`{other}`"),
    }
}

/// The key's own description, and what each word means where the value is one of several words.
fn meaning(schema: &Value, property: &Value) -> String {
    let mut out = text(&property["description"]);
    let words = resolve(schema, property)["oneOf"]
        .as_array()
        .into_iter()
        .flatten();
    for word in words {
        if let (Some(name), Some(_)) = (word["const"].as_str(), word["description"].as_str()) {
            let _ = write!(out, "<br>`{name}`: {}", text(&word["description"]));
        }
    }
    out
}
