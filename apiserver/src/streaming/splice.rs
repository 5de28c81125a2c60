//! Joins two connections, byte for byte.

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Copies both ways until one side has ended, then ends the other: what is upgraded to does not half-close its connection.
pub async fn splice<A, B>(client: A, backend: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut backend_read, mut backend_write) = tokio::io::split(backend);
    let ended = tokio::select! {
        ended = tokio::io::copy(&mut client_read, &mut backend_write) => ended,
        ended = tokio::io::copy(&mut backend_read, &mut client_write) => ended,
    };
    // Either side may end at any time; that is how these streams end.
    if let Err(error) = ended {
        tracing::debug!(%error, "a joined connection ended");
    }
    for ended in [client_write.shutdown().await, backend_write.shutdown().await] {
        if let Err(error) = ended {
            tracing::debug!(%error, "a joined connection was closed already");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn when_one_side_ends_the_other_does_too() {
        let (mut client, ours) = tokio::io::duplex(64);
        let (mut backend, theirs) = tokio::io::duplex(64);
        let joined = tokio::spawn(splice(ours, theirs));
        client.write_all(b"a").await.unwrap();
        assert_eq!(backend.read_u8().await.unwrap(), b'a');
        backend.write_all(b"last words").await.unwrap();
        drop(backend);
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "last words");
        joined.await.unwrap();
    }
}
