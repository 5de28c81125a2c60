//! Runs the programs that change the kernel's rules. Knows nothing of rules.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A program that takes longer than this is ended; a hundred thousand rules take a minute.
const TIMEOUT: Duration = Duration::from_secs(300);

/// So much of what a program complains is told.
const COMPLAINT_BYTES: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot run {program}: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("{program} takes longer than {TIMEOUT:?}")]
    Timeout { program: String },
    #[error("{program} failed with {code}: {complaint}")]
    Failed { program: String, code: i32, complaint: String },
}

/// How programs are started: as they are, or by another one, such as `ip netns exec NAME`.
#[derive(Clone, Debug, Default)]
pub struct Runner {
    prefix: Vec<String>,
}

impl Runner {
    /// Runs programs through this one.
    pub fn through(prefix: &[&str]) -> Runner {
        Runner { prefix: prefix.iter().map(|word| (*word).to_owned()).collect() }
    }

    /// Runs the program with `input`, and gives what it says.
    pub async fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, Error> {
        let start = |source| Error::Start { program: program.to_owned(), source };
        let mut words = self.prefix.iter().map(String::as_str).chain([program]).chain(arguments.iter().copied());
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(start)?;
        let stdin = child.stdin.take();
        // Both at once, for a program that writes before it has read everything would wait for ever.
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that ends early says why by its exit code.
                let _ = stdin.write_all(input).await;
            }
        };
        let work = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output =
            tokio::time::timeout(TIMEOUT, work).await.map_err(|_| Error::Timeout { program: program.to_owned() })?.map_err(start)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let complaint = String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(COMPLAINT_BYTES)]).trim().to_owned();
        Err(Error::Failed { program: program.to_owned(), code: output.status.code().unwrap_or(-1), complaint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_and_failure_are_told() {
        let runner = Runner::default();
        assert_eq!(runner.run("cat", &[], b"a\n").await.unwrap(), b"a\n");
        let through = Runner::through(&["env", "A=b"]);
        assert_eq!(through.run("sh", &["-c", "echo $A"], b"").await.unwrap(), b"b\n");
        let failed = runner.run("sh", &["-c", "echo no >&2; exit 3"], b"").await;
        assert!(matches!(failed, Err(Error::Failed { code: 3, ref complaint, .. }) if complaint == "no"), "{failed:?}");
        assert!(matches!(runner.run("no-such-program", &[], b"").await, Err(Error::Start { .. })));
    }
}
