//! The closed set of routes, as the OpenAPI document names them: labels for metrics, and the methods an address takes.

use metrics::{Metrics, labels::HttpMethod};
use poem_openapi::OpenApi;

/// Stands for every address that is none of ours.
const OTHER: &str = "other";

/// Routes that are no part of the API.
const PAGES: [&str; 2] = ["/openapi.json", "/docs"];

/// Every route.
#[derive(Debug)]
pub(super) struct RouteTable(Vec<Route>);

#[derive(Debug)]
struct Route {
    label: String,
    methods: String,
}

impl RouteTable {
    /// The routes of an API, and the pages beside it.
    pub(super) fn of<A: OpenApi>() -> Self {
        let paths = A::meta().into_iter().flat_map(|api| api.paths);
        let api = paths.map(|path| {
            let methods: Vec<_> = path.operations.iter().map(|operation| operation.method.to_string()).collect();
            Route { label: path.path, methods: methods.join(", ") }
        });
        let pages = PAGES.map(|label| Route { label: label.to_owned(), methods: "GET".to_owned() });
        Self(api.chain(pages).collect())
    }

    /// Every series of these routes begins at 0.
    pub(super) fn announce(&self, metrics: &Metrics) {
        for route in &self.0 {
            for method in route.methods.split(", ") {
                metrics.http_route(&route.label, HttpMethod::named(method));
            }
        }
    }

    /// Every address and what it takes.
    pub(super) fn addresses(&self) -> Vec<(String, Vec<String>)> {
        let methods = |route: &Route| route.methods.split(", ").map(str::to_owned).collect();
        self.0.iter().map(|route| (route.label.clone(), methods(route))).collect()
    }

    /// The label of what the router matched.
    pub(super) fn label(&self, pattern: Option<&str>) -> &str {
        pattern.and_then(|pattern| self.find(pattern)).map_or(OTHER, |route| &route.label)
    }

    /// What a matched address takes, as the header `Allow` has it.
    pub(super) fn methods(&self, pattern: &str) -> Option<&str> {
        self.find(pattern).map(|route| &*route.methods)
    }

    /// The label of an address that nothing has been matched with yet: what happens on the way is told with it.
    pub(super) fn expected(&self, path: &str) -> &str {
        let same = |(ours, theirs): (&str, &str)| ours == theirs || (ours.starts_with('{') && !theirs.is_empty());
        // What stands there in so many words goes before what takes any.
        let matching = |route: &&Route| {
            route.label.split('/').count() == path.split('/').count()
                && route.label.split('/').zip(path.split('/')).all(same)
        };
        let found = self.0.iter().filter(matching).min_by_key(|route| route.label.matches('{').count());
        found.map_or(OTHER, |route| &route.label)
    }

    /// The router writes `:param0` where the document has `{id}`.
    fn find(&self, pattern: &str) -> Option<&Route> {
        let same = |(ours, theirs): (&str, &str)| ours == theirs || (ours.starts_with('{') && theirs.starts_with(':'));
        self.0.iter().find(|route| {
            route.label.split('/').count() == pattern.split('/').count()
                && route.label.split('/').zip(pattern.split('/')).all(same)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_by_its_route_before_it_is_matched() {
        let route = |label: &str| Route { label: label.to_owned(), methods: "GET".to_owned() };
        let table = RouteTable(["/users/{id}", "/users/{id}/usage", "/users/all", "/healthz"].map(route).into());
        for (path, label) in [
            ("/users/7", "/users/{id}"),
            ("/users/all", "/users/all"),
            ("/users/7/usage", "/users/{id}/usage"),
            ("/healthz", "/healthz"),
            ("/users/", OTHER),
            ("/users/7/usage/x", OTHER),
            ("/.env", OTHER),
        ] {
            assert_eq!(table.expected(path), label, "{path}");
        }
    }
}
