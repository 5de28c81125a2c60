//! Which paths there are: a pure function of method and path, so that it is one table to read and to test.

use http::Method;

use super::MetricsPage;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/healthz`, or one of its checks by name.
    Health(Option<String>),
    Pods,
    RunningPods,
    Summary,
    Metrics(MetricsPage),
    Configz,
    /// `/logs/` and what is below, decoded, without a slash at its front.
    SystemLogs(String),
    ContainerLogs(Container),
    Run(Container),
    Exec(Container),
    Attach(Container),
    PortForward(PodPath),
    Checkpoint(Container),
    /// There are such paths, but the configuration turned them off; why.
    Disabled(&'static str),
    /// The path takes other methods; which, if the answer is to tell.
    MethodNotAllowed(&'static str),
    NotFound,
}

/// A pod as paths name it; `uid` is empty if the path has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPath {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A container as paths name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub pod: PodPath,
    pub name: String,
}

/// What of the API is turned on.
#[derive(Clone, Copy, Debug)]
pub struct Enabled {
    pub debugging_handlers: bool,
    pub system_log_handler: bool,
}

/// Finds the route of a path, which is still percent-encoded.
pub fn route(method: &Method, path: &str, enabled: Enabled) -> Route {
    let parts: Vec<String> = path.trim_start_matches('/').split('/').map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["healthz"] => Route::Health(None),
        ["healthz", check] => Route::Health(Some((*check).to_owned())),
        ["pods"] | ["pods", ""] => get_only(method, Route::Pods),
        ["stats", "summary"] if matches!(*method, Method::GET | Method::POST) => Route::Summary,
        ["stats", "summary"] => Route::MethodNotAllowed("GET, POST"),
        ["metrics"] => Route::Metrics(MetricsPage::Kubelet),
        ["metrics", "cadvisor"] => Route::Metrics(MetricsPage::Cadvisor),
        ["metrics", "resource"] => Route::Metrics(MetricsPage::Resource),
        ["metrics", "probes"] => Route::Metrics(MetricsPage::Probes),
        ["metrics", "slis"] => Route::Metrics(MetricsPage::Slis),
        ["run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" | "logs", ..] if !enabled.debugging_handlers => {
            Route::Disabled("Debug endpoints are disabled.")
        }
        _ if !enabled.debugging_handlers => Route::NotFound,
        ["configz"] => Route::Configz,
        ["runningpods"] | ["runningpods", ""] => get_only(method, Route::RunningPods),
        ["logs", ..] if !enabled.system_log_handler => Route::Disabled("logs endpoint is disabled."),
        ["logs", below @ ..] => get_only(method, Route::SystemLogs(below.join("/"))),
        ["containerLogs", rest @ ..] if rest.len() == 3 => {
            container(rest).map_or(Route::NotFound, |c| get_only(method, Route::ContainerLogs(c)))
        }
        ["run", rest @ ..] => container(rest).map_or(Route::NotFound, |c| post_only(method, Route::Run(c))),
        ["exec", rest @ ..] => container(rest).map_or(Route::NotFound, |c| get_or_post(method, Route::Exec(c))),
        ["attach", rest @ ..] => container(rest).map_or(Route::NotFound, |c| get_or_post(method, Route::Attach(c))),
        ["portForward", rest @ ..] => pod(rest).map_or(Route::NotFound, |p| get_or_post(method, Route::PortForward(p))),
        ["checkpoint", rest @ ..] if rest.len() == 3 => {
            container(rest).map_or(Route::NotFound, |c| post_only(method, Route::Checkpoint(c)))
        }
        _ => Route::NotFound,
    }
}

fn get_only(method: &Method, route: Route) -> Route {
    if method == Method::GET { route } else { Route::MethodNotAllowed("GET") }
}

fn post_only(method: &Method, route: Route) -> Route {
    if method == Method::POST { route } else { Route::MethodNotAllowed("POST") }
}

fn get_or_post(method: &Method, route: Route) -> Route {
    if matches!(*method, Method::GET | Method::POST) { route } else { Route::MethodNotAllowed("GET, POST") }
}

/// `namespace/pod/container` or `namespace/pod/uid/container`.
fn container(parts: &[&str]) -> Option<Container> {
    let (name, pod_parts) = parts.split_last()?;
    (!name.is_empty()).then_some(())?;
    Some(Container { pod: pod(pod_parts)?, name: (*name).to_owned() })
}

/// `namespace/pod` or `namespace/pod/uid`.
fn pod(parts: &[&str]) -> Option<PodPath> {
    let (namespace, name, uid) = match parts {
        [namespace, name] => (*namespace, *name, ""),
        [namespace, name, uid] => (*namespace, *name, *uid),
        _ => return None,
    };
    let path = PodPath { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() };
    (!namespace.is_empty() && !name.is_empty()).then_some(path)
}

/// Resolves percent-encoding; what is not encoded rightly stays as it is.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let encoded = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let byte = encoded.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The parameters of a query, in their order.
pub fn query(text: Option<&str>) -> Vec<(String, String)> {
    let pairs = text.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
    let plain = |text: &str| decode(&text.replace('+', " "));
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(key, value)| (plain(key), plain(value))).collect()
}

/// The first value of a parameter.
pub fn first<'a>(query: &'a [(String, String)], key: &str) -> Option<&'a str> {
    query.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Enabled = Enabled { debugging_handlers: true, system_log_handler: true };

    fn get(path: &str) -> Route {
        route(&Method::GET, path, ALL)
    }

    fn of(namespace: &str, name: &str, uid: &str, container: &str) -> Container {
        let pod = PodPath { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() };
        Container { pod, name: container.to_owned() }
    }

    #[test]
    fn paths_lead_to_routes() {
        assert_eq!(get("/healthz"), Route::Health(None));
        assert_eq!(get("/healthz/ping"), Route::Health(Some("ping".to_owned())));
        assert_eq!(get("/pods"), Route::Pods);
        assert_eq!(get("/runningpods/"), Route::RunningPods);
        assert_eq!(get("/metrics/cadvisor"), Route::Metrics(MetricsPage::Cadvisor));
        assert_eq!(get("/logs/"), Route::SystemLogs(String::new()));
        assert_eq!(get("/logs/pods/a%20b"), Route::SystemLogs("pods/a b".to_owned()));
        assert_eq!(get("/exec/n/p/c"), Route::Exec(of("n", "p", "", "c")));
        assert_eq!(get("/exec/n/p/u/c"), Route::Exec(of("n", "p", "u", "c")));
        assert_eq!(get("/portForward/n/p/u"), Route::PortForward(of("n", "p", "u", "").pod));
        assert_eq!(get("/containerLogs/n/p/c"), Route::ContainerLogs(of("n", "p", "", "c")));
        assert_eq!(get("/containerLogs/n/p/u/c"), Route::NotFound);
        assert_eq!(get("/exec/n/p"), Route::NotFound);
        assert_eq!(get("/"), Route::NotFound);
    }

    #[test]
    fn methods_are_checked() {
        assert_eq!(route(&Method::POST, "/pods", ALL), Route::MethodNotAllowed("GET"));
        assert_eq!(get("/run/n/p/c"), Route::MethodNotAllowed("POST"));
        assert_eq!(route(&Method::DELETE, "/exec/n/p/c", ALL), Route::MethodNotAllowed("GET, POST"));
    }

    #[test]
    fn what_is_turned_off_says_so() {
        let off = Enabled { debugging_handlers: false, system_log_handler: true };
        assert_eq!(route(&Method::GET, "/exec/n/p/c", off), Route::Disabled("Debug endpoints are disabled."));
        assert_eq!(route(&Method::GET, "/pods", off), Route::Pods);
        assert_eq!(route(&Method::GET, "/configz", off), Route::NotFound);
        let off = Enabled { debugging_handlers: true, system_log_handler: false };
        assert_eq!(route(&Method::GET, "/logs/", off), Route::Disabled("logs endpoint is disabled."));
    }

    #[test]
    fn queries_are_decoded() {
        let query = query(Some("command=sh&command=a+b%26&input=1"));
        assert_eq!(query, [("command", "sh"), ("command", "a b&"), ("input", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(first(&query, "input"), Some("1"));
        assert_eq!(decode("100%"), "100%");
    }
}
