//! The texts of e-mails: built in, or from a folder of the operator's; all checked at the start.

use std::{fs, io, path::Path};

use entity::enums::EmailKind;
use minijinja::{Environment, UndefinedBehavior, value::Serde};

use super::letter::Letter;

/// What an e-mail is made of: the ending of a template's file.
const PARTS: [&str; 3] = ["subject", "txt", "html"];

const BUILT_IN: [(&str, &str); 9] = [
    ("payment_failed.subject", include_str!("texts/payment_failed.subject")),
    ("payment_failed.txt", include_str!("texts/payment_failed.txt")),
    ("payment_failed.html", include_str!("texts/payment_failed.html")),
    ("payment_action_required.subject", include_str!("texts/payment_action_required.subject")),
    ("payment_action_required.txt", include_str!("texts/payment_action_required.txt")),
    ("payment_action_required.html", include_str!("texts/payment_action_required.html")),
    ("trial_ending.subject", include_str!("texts/trial_ending.subject")),
    ("trial_ending.txt", include_str!("texts/trial_ending.txt")),
    ("trial_ending.html", include_str!("texts/trial_ending.html")),
];

/// A text that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The folder, or a file in it.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// Which.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A file that is never used.
    #[error("{name} is the text of no e-mail; there are {}", names().collect::<Vec<_>>().join(", "))]
    Unknown {
        /// Its name.
        name: String,
    },
    /// A text that does not parse, or asks for what is not there.
    #[error("{name} cannot be used: {reason}; the names to use are {}", Letter::NAMES.join(", "))]
    Wrong {
        /// Its name.
        name: String,
        /// Where and what.
        reason: String,
    },
    /// A subject of no letters.
    #[error("{name} gives an empty subject")]
    Empty {
        /// Its name.
        name: String,
    },
}

fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// A rendered e-mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// HTML.
    pub html: String,
}

/// Every text, ready to be filled in.
#[derive(Debug)]
pub struct Templates(Environment<'static>);

impl Templates {
    /// Takes the built-in texts, and those of `folder` in place of the built-in ones of the same name. Each is tried with samples, so that none
    /// can fail once an e-mail waits.
    ///
    /// # Errors
    /// Every text that cannot be used.
    pub fn load(folder: Option<&Path>) -> Result<Self, Vec<TemplateError>> {
        let mut environment = Environment::new();
        // What a template misspells must show at the start, not as a gap in a letter.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut errors = Vec::new();
        let own = match folder.map(read_folder) {
            None => Vec::new(),
            Some(Ok(own)) => own,
            Some(Err(found)) => {
                errors.extend(found);
                Vec::new()
            }
        };
        for (name, built_in) in BUILT_IN {
            let text = own.iter().find(|(own, _)| own == name).map_or(built_in, |(_, text)| text);
            if let Err(error) = environment.add_template_owned(name, text.to_owned()) {
                errors.push(wrong(name, &error));
            }
        }
        let templates = Self(environment);
        if errors.is_empty() {
            errors.extend(EmailKind::ALL.iter().filter_map(|kind| templates.try_out(*kind).err()));
        }
        if errors.is_empty() { Ok(templates) } else { Err(errors) }
    }

    fn try_out(&self, kind: EmailKind) -> Result<(), TemplateError> {
        Letter::samples().iter().try_for_each(|letter| self.render(kind, letter).map(drop))
    }

    /// Fills in the texts of one kind.
    pub(crate) fn render(&self, kind: EmailKind, letter: &Letter) -> Result<Rendered, TemplateError> {
        let [subject, text, html] = PARTS.map(|part| {
            let name = format!("{kind}.{part}");
            let rendered = self.0.get_template(&name).and_then(|template| template.render(Serde(letter)));
            rendered.map_err(|error| wrong(&name, &error))
        });
        // A header is one line, whatever a name holds.
        let subject = subject?.split_whitespace().collect::<Vec<_>>().join(" ");
        if subject.is_empty() {
            return Err(TemplateError::Empty { name: format!("{kind}.subject") });
        }
        Ok(Rendered { subject, text: text?, html: html? })
    }
}

fn wrong(name: &str, error: &minijinja::Error) -> TemplateError {
    let place = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    TemplateError::Wrong { name: name.to_owned(), reason: format!("{reason}{place}") }
}

/// Name and text of every file that is meant as a template.
fn read_folder(folder: &Path) -> Result<Vec<(String, String)>, Vec<TemplateError>> {
    let unreadable = |path: &Path, source| TemplateError::Unreadable { path: path.display().to_string(), source };
    let entries = fs::read_dir(folder).map_err(|error| vec![unreadable(folder, error)])?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                errors.push(unreadable(folder, error));
                continue;
            }
        };
        let part = path.extension().and_then(|part| part.to_str()).unwrap_or_default();
        if !PARTS.contains(&part) {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !names().any(|known| known == name) {
            errors.push(TemplateError::Unknown { name });
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(text) => found.push((name, text)),
            Err(error) => errors.push(unreadable(&path, error)),
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        folder
    }

    fn errors(files: &[(&str, &str)]) -> String {
        let folder = folder(files);
        let errors = Templates::load(Some(folder.path())).expect_err("something is wrong");
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_built_in_texts_are_whole_for_every_kind_and_say_what_is_known() {
        let templates = Templates::load(None).expect("the built-in texts");
        for kind in EmailKind::ALL {
            for letter in Letter::samples() {
                let Rendered { subject, text, html } = templates.render(*kind, &letter).expect("a letter");
                assert!(
                    !subject.contains('\n') && text.contains(&letter.product) && html.contains("</html>"),
                    "{kind}"
                );
                assert!(!text.contains("none") && !html.contains("none"), "{kind}: {text}");
                if *kind != EmailKind::TrialEnding {
                    for told in [&letter.amount, &letter.link, &letter.plan, &letter.number].into_iter().flatten() {
                        assert!(
                            text.contains(told) && html.contains(&told.replace('&', "&amp;").replace('/', "&#x2f;")),
                            "{kind}: {told}\n{html}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_person_is_called_cannot_become_markup_nor_a_header() {
        let templates = Templates::load(None).expect("the built-in texts");
        let mut letter = Letter::samples().remove(0);
        letter.name = Some("<script>alert(1)</script>".to_owned());
        letter.product = "A\r\nBcc: everybody@example.com".to_owned();
        let rendered = templates.render(EmailKind::PaymentFailed, &letter).expect("a letter");
        assert!(!rendered.html.contains("<script>"), "{}", rendered.html);
        assert!(rendered.text.contains("<script>"), "plain text is plain");
        assert!(!rendered.subject.contains(['\r', '\n']));
    }

    #[test]
    fn a_text_of_ones_own_takes_the_place_of_the_built_in_one() {
        let folder =
            folder(&[("trial_ending.subject", "Bald ist Schluss mit {{ product }}"), ("notes.md", "{{ not read")]);
        let templates = Templates::load(Some(folder.path())).expect("texts");
        let letter = &Letter::samples()[0];
        let rendered = templates.render(EmailKind::TrialEnding, letter).expect("a letter");
        assert_eq!(rendered.subject, format!("Bald ist Schluss mit {}", letter.product));
        assert!(rendered.text.starts_with("Hello"), "the others stay");
    }

    #[test]
    fn a_text_that_could_fail_later_fails_at_the_start() {
        for (files, told) in [
            (&[("payment_failed.txt", "{{ amount")][..], "payment_failed.txt"),
            (&[("payment_failed.html", "\n{{ amuont }}")][..], "in line 2; the names to use are"),
            // Only where there is no link, and so in no letter until one comes without.
            (
                &[("payment_failed.txt", "{% if link %}{{ link }}{% else %}{{ nolink }}{% endif %}")][..],
                "payment_failed.txt",
            ),
            (&[("trial_ending.subject", " \n")][..], "empty subject"),
            (&[("payment_faild.txt", "x")][..], "payment_faild.txt is the text of no e-mail"),
        ] {
            assert!(errors(files).contains(told), "{told}: {}", errors(files));
        }
        let missing = Templates::load(Some(Path::new("/nowhere/at/all"))).expect_err("no folder");
        assert!(missing[0].to_string().contains("/nowhere/at/all cannot be read"));
    }
}
