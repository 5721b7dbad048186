//! Manifests, unit and compose file, as those see them that read them.

use std::fs;
use std::path::Path;
use std::process::Command;

use call_legs::config::Config;

use super::tools::{repository, run, run_python, text_of};

/// As the image has it.
#[track_caller]
fn assert_is_read(path: &str) {
    let image = [("CALL_LEGS_STATE__DIR", "/var/lib/call-legs"), ("CALL_LEGS_ADMIN__LISTEN", "0.0.0.0:9464")];
    let config = Config::parse(path, &text_of(path), image).unwrap();
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
}

#[test]
fn the_manifests_are_valid_and_fit_together_and_their_configuration_is_read() {
    let files = ["config/kubernetes/call-legs.yaml", "config/kubernetes/order.yaml"];
    let said = run_python("kubernetes-validate", &[&["--strict"], files.as_slice()].concat());
    assert!(said.contains("deployment/call-legs") && said.contains("cronjob/call-legs-order"), "{said}");
    run_python("python", &["tests/operations/manifests.py", "config/kubernetes"]);
    assert_is_read("config/kubernetes/call-legs.toml");
}

#[test]
fn the_compose_file_is_valid_for_old_and_new_and_its_configuration_is_read() {
    // Compose v2 holds to the specification; v1 has a schema of its own, and writes down what it understood.
    run_python("check-jsonschema", &["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]);
    let understood = run_python("docker-compose", &["--profile", "watch", "--profile", "alarms", "config"]);
    let ports: Vec<&str> = understood.lines().filter(|line| line.ends_with("/tcp")).collect();
    assert!(ports.len() >= 5, "{understood}");
    assert!(ports.iter().all(|port| port.trim().starts_with("- 127.0.0.1:")), "only this machine reaches {ports:?}");
    let file = "config/compose/call-legs.toml";
    assert!(understood.contains(&format!("{file}:/etc/call-legs/call-legs.toml:ro")), "{understood}");
    assert_is_read(file);
}

/// What `call-legs config schema` prints is what lies beside the file; a unit test holds it.
#[test]
fn the_documented_configuration_is_what_its_schema_says() {
    let schema = "config/call-legs.schema.json";
    run_python("check-jsonschema", &["--check-metaschema", schema]);
    run_python("check-jsonschema", &["--schemafile", schema, "config/call-legs.toml"]);
}

#[test]
fn the_unit_is_valid_and_hardened() {
    // systemd looks whether the program is there.
    let unit = text_of("config/systemd/call-legs.service")
        .replace("/usr/local/bin/call-legs", env!("CARGO_BIN_EXE_call-legs"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("call-legs.service");
    std::fs::write(&path, unit).unwrap();
    assert!(text_of("config/systemd/call-legs.service").lines().any(|line| line == "LimitCORE=0"), "no core on a disk");
    let path = path.to_string_lossy();
    let said = run("systemd-analyze", "systemd", &["verify", &path]);
    assert_eq!(said.trim(), "", "systemd-analyze verify has nothing to say");
    // Of 100, which is no protection at all; two tenths of it are the network that it works with.
    run("systemd-analyze", "systemd", &["security", "--offline=true", "--threshold=20", &path]);
}

/// The lines of `setup` that say what is needed, by their fields: name, search, package, purpose, what leaves out its tests.
fn needs(setup: &str) -> Vec<Vec<&str>> {
    let lines = setup.lines().skip_while(|line| !line.ends_with("<<'NEEDS'")).skip(1);
    let needs: Vec<Vec<&str>> =
        lines.take_while(|line| *line != "NEEDS").map(|line| line.split('|').collect()).collect();
    assert!(needs.len() > 8 && needs.iter().all(|fields| fields.len() == 5), "{needs:?}");
    needs
}

#[test]
fn the_image_is_built_with_the_packages_that_setup_names() {
    let (setup, dockerfile) = (text_of("setup"), text_of("Dockerfile"));
    let to_build = needs(&setup).into_iter().filter(|fields| fields[3] == "demo").map(|fields| fields[2]);
    // The image that it is built in has these already.
    let packages: Vec<&str> = to_build.filter(|package| *package != "ca-certificates").collect();
    let line = format!("--no-install-recommends {} \\", packages.join(" "));
    assert!(dockerfile.lines().any(|written| written.ends_with(&line)), "Dockerfile should have {line}");
}

#[test]
fn setup_leaves_out_tests_that_there_are() {
    let setup = text_of("setup");
    for fields in needs(&setup) {
        let options: Vec<&str> = fields[4].split_whitespace().collect();
        for pair in options.windows(2) {
            if pair[0] == "--test" {
                assert!(repository(&format!("tests/{}/main.rs", pair[1])).exists(), "{fields:?}");
            }
            let Some((module, test)) = pair[1].split_once("::").filter(|_| pair[0] == "--skip") else { continue };
            let files = ["kafka", "operations"].map(|suite| repository(&format!("tests/{suite}/{module}.rs")));
            let file = files.iter().find(|file| file.exists()).unwrap_or_else(|| panic!("{fields:?}"));
            assert!(fs::read_to_string(file).unwrap().contains(&format!("fn {test}")), "{fields:?}");
        }
    }
}

/// Cargo refuses a manifest that names a target whose folder is not there, also one that is not built.
#[test]
fn the_image_is_built_with_every_folder_that_cargo_needs() {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let (manifest, dockerfile, ignored) = (read("Cargo.toml"), read("Dockerfile"), read(".dockerignore"));
    let named = [("[[bench]]", "benches"), ("[[test]]", "tests"), ("[[example]]", "examples")];
    let named = named.into_iter().filter(|(table, _)| manifest.lines().any(|line| line == *table));
    for folder in named.map(|(_, folder)| folder).chain([".cargo", ".ci", "src", "schemas"]) {
        assert!(dockerfile.lines().any(|line| line == format!("COPY {folder} ./{folder}")), "{folder}");
        assert!(ignored.lines().any(|line| line == format!("!{folder}")), "{folder}");
    }
}

/// The lines of a Dockerfile, continued ones put together.
fn instructions(dockerfile: &str) -> Vec<String> {
    dockerfile.replace("\\\n", " ").lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn the_image_says_what_it_is_and_runs_as_the_user_that_the_manifests_name() {
    let dockerfile = text_of("Dockerfile");
    let instructions = instructions(&dockerfile);
    let has = |wanted: &str| instructions.iter().any(|line| line.contains(wanted));
    for (label, value) in [
        ("version", env!("CARGO_PKG_VERSION")),
        ("description", env!("CARGO_PKG_DESCRIPTION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("title", env!("CARGO_PKG_NAME")),
    ] {
        assert!(has(&format!("org.opencontainers.image.{label}=\"{value}\"")), "{label} {value}");
    }
    assert!(has("groupadd --system --gid 10001 call-legs && useradd --system --uid 10001 --gid 10001 "));
    assert!(has("USER 10001:10001"));
    // The release of the toolchain that builds is the one that Cargo.toml asks for.
    assert!(has(&format!("FROM rust:{}-slim-", env!("CARGO_PKG_RUST_VERSION"))));
    let kustomization = text_of("config/kubernetes/kustomization.yaml");
    assert!(kustomization.contains(concat!("newTag: ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_health_check_of_the_image_is_a_command_that_there_is() {
    let instructions = instructions(&text_of("Dockerfile"));
    let check = instructions.iter().find_map(|line| line.strip_prefix("HEALTHCHECK ")?.split_once(" CMD ")).unwrap().1;
    let words: Vec<String> = serde_json::from_str(check).unwrap();
    assert_eq!(words[0], "call-legs");
    // Nobody listens there: another failure would be one of the command line.
    let run =
        Command::new(env!("CARGO_BIN_EXE_call-legs")).args(&words[1..]).args(["--url", "http://127.0.0.1:9"]).output();
    let output = run.unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_licences_of_all_that_is_linked_are_told() {
    let licences = run(".ci/licences", "bash", &[]);
    for part in
        ["librdkafka, in rdkafka-sys", "jemalloc, in tikv-jemalloc-sys", "sled v0.34", "the standard library of Rust"]
    {
        assert!(licences.contains(part), "{part}");
    }
    for text in ["Permission is hereby granted, free of charge", "Apache License", "Redistributions in binary form"] {
        assert!(licences.contains(text), "{text}");
    }
}
