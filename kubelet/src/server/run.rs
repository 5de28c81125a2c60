//! `/run`: a command in a container, run to its end.

use axum::body::Body;
use http::{Response, StatusCode};

use super::Node;
use super::find;
use super::respond::{self, text};
use super::route::{Container, first};

/// Runs the command of parameter `cmd`, words parted by spaces; its output, what it said on stderr last.
pub async fn run(node: &dyn Node, container: &Container, query: &[(String, String)]) -> Response<Body> {
    let Some(pod) = node.pod(&container.pod.namespace, &container.pod.name) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let runtime = node.runtime();
    let id = match find::running_container(&*runtime, &pod, &container.name).await {
        Ok(Some(id)) => id,
        Ok(None) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{}\")", container.name)),
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let command: Vec<String> = first(query, "cmd").unwrap_or("").split(' ').map(str::to_owned).collect();
    let words = command.join(" ");
    match runtime.exec_sync(id, command, 0).await {
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Ok(done) if done.exit_code != 0 => {
            let said = String::from_utf8_lossy(&done.stderr);
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("command '{words}' exited with {}: {said}", done.exit_code))
        }
        Ok(done) => respond::bytes_as_json([done.stdout, done.stderr].concat()),
    }
}
