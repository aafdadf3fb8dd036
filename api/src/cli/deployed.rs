//! The commands in the files that deploy are commands of this program, and the settings there are settings.

use std::collections::BTreeSet;

use clap::Parser as _;

use super::Cli;

const COMPOSE: &str = include_str!("../../../deploy/compose.yaml");
const STAGING: &str = include_str!("../../../deploy/staging/compose.yaml");
const SIMULATOR: &str = include_str!("../../../deploy/staging/simulator.env");
const DOCKERFILE: &str = include_str!("../../../deploy/Dockerfile");
const DEPLOYMENT: &str = include_str!("../../../deploy/kubernetes/deployment.yaml");
const JOB: &str = include_str!("../../../deploy/kubernetes/migration-job.yaml");
const SECRET: &str = include_str!("../../../deploy/kubernetes/secret.example.yaml");
const UNIT: &str = include_str!("../../../deploy/systemd/trueup.service");
const UNIT_ENV: &str = include_str!("../../../deploy/systemd/trueup.env");
const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
const TOML: &str = include_str!("../../../deploy/kubernetes/trueup.toml");

/// Blocks of `command:` whose first word is `simulate`.
fn simulations(compose: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for block in compose.split("command:\n").skip(1) {
        let words: Vec<String> =
            block.lines().map_while(|line| line.trim_start().strip_prefix("- ")).map(str::to_owned).collect();
        if words.first().is_some_and(|word| word == "simulate") {
            found.push(words);
        }
    }
    found
}

/// `[a, "b"]` after this key.
fn inline(text: &str, key: &str) -> Vec<Vec<String>> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix(key))
        .map(|list| {
            list.trim()
                .trim_matches(['[', ']'])
                .split(',')
                .map(|word| word.trim().trim_matches('"').to_owned())
                .collect()
        })
        .collect()
}

#[test]
fn every_command_of_the_files_that_deploy_is_one() {
    let mut commands: Vec<Vec<String>> = [COMPOSE, STAGING].into_iter().flat_map(simulations).collect();
    assert_eq!(commands.len(), 2, "one simulation in each compose file");
    commands.extend([DEPLOYMENT, JOB].into_iter().flat_map(|manifest| inline(manifest, "args:")));
    commands.extend(inline(DOCKERFILE, "CMD "));
    let (_, check) = DOCKERFILE.split_once("CMD [\"/usr/local/bin/trueup\", ").expect("a health check");
    commands.push(vec![check.split(']').next().expect("it ends").trim_matches('"').to_owned()]);
    let started =
        UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/trueup ")).expect("a command");
    commands.push(started.split(' ').map(str::to_owned).collect());
    assert_eq!(commands.len(), 7, "{commands:?}");
    for command in commands {
        let parsed = Cli::try_parse_from(std::iter::once("trueup".to_owned()).chain(command.iter().cloned()));
        assert!(parsed.is_ok(), "{command:?}: {}", parsed.expect_err("it failed"));
    }
}

#[test]
fn every_setting_of_the_files_that_deploy_is_one() {
    // Of the image, and of others' programs.
    let others = ["TRUEUP_IMAGE", "TRUEUP_PORT"];
    let mut seen = BTreeSet::new();
    for file in [COMPOSE, STAGING, SIMULATOR, DOCKERFILE, DEPLOYMENT, JOB, SECRET, UNIT, UNIT_ENV] {
        for word in file.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')) {
            let ours = ["TRUEUP_", "STRIPE_", "SENTRY_", "SMTP_"].iter().any(|prefix| word.starts_with(prefix));
            if (ours || word == "DATABASE_URL") && !others.contains(&word) {
                assert!(
                    CONFIGURATION.contains(&format!("| `{word}` |")),
                    "{word} is no setting of docs/configuration.md"
                );
                seen.insert(word);
            }
        }
    }
    assert!(seen.len() > 8, "{seen:?}");
    let plans = crate::config::Config::from(&|_| None, Some((std::path::Path::new("trueup.toml"), TOML)));
    assert!(plans.is_ok(), "deploy/kubernetes/trueup.toml: {}", plans.expect_err("it failed"));
}
