//! The API's description for people.

use poem::{Response, http::header};
use uuid::Uuid;

/// How the scripts of the page begin, in their order: the library, then what starts it.
const SCRIPTS: [&str; 2] = [" charset=\"UTF-8\">", ">\n    let spec"];

/// Swagger UI, cut where a nonce goes: only its own two scripts may run.
#[derive(Debug)]
pub(super) struct DocsPage(Vec<String>);

impl DocsPage {
    /// Takes the page as poem-openapi makes it.
    pub(super) fn new(html: &str) -> Self {
        let mut cuts = Vec::new();
        let mut done = 0;
        for script in SCRIPTS {
            let opening = format!("<script{script}");
            if let Some(found) = html[done..].find(&opening) {
                let cut = done + found + "<script".len();
                cuts.push(format!("{} nonce=\"", &html[done..cut]));
                done = cut;
            }
        }
        // Each part but the first begins where its nonce ends.
        cuts.push(html[done..].to_owned());
        Self(cuts)
    }

    /// The page, under a policy that lets nothing else run or load.
    pub(super) fn render(&self) -> Response {
        let nonce = Uuid::new_v4().simple().to_string();
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src 'self' data:; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let page = Response::builder().content_type("text/html; charset=utf-8");
        page.header(header::CONTENT_SECURITY_POLICY, policy).body(self.0.join(&format!("{nonce}\"")))
    }
}
