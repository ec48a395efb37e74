//! TLS for a page: the cluster's own certificate, or somebody's files.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{Accept, TlsAcceptor};

use crate::trust::{Own, Trust};

/// Shows a certificate to whoever comes, by TLS 1.3; asks for none.
#[derive(Clone)]
pub struct Web(TlsAcceptor);

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").finish_non_exhaustive()
    }
}

fn finish(mut tls: ServerConfig) -> Web {
    tls.alpn_protocols = vec![b"http/1.1".into()];
    Web(TlsAcceptor::from(Arc::new(tls)))
}

impl Web {
    /// With the node's certificate of the cluster; a new one is shown from then on.
    ///
    /// # Errors
    /// If TLS 1.3 is not there.
    pub fn of_cluster(trust: &Arc<Trust>) -> Result<Self, String> {
        let tls = ServerConfig::builder_with_provider(trust.provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Own(trust.clone())));
        Ok(finish(tls))
    }

    /// With a certificate, those between it and its authority, and its key, as PEM.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn of_pem(certificates: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("`cert`: {error}"))?;
        if chain.is_empty() {
            return Err("`cert`: there is no `BEGIN CERTIFICATE` in it".into());
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("`key`: {error}"))?;
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| format!("`cert` and `key`: {error}"))?;
        Ok(finish(tls))
    }

    /// Shakes hands over a stream.
    pub fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Accept<S> {
        self.0.accept(stream)
    }
}

/// A stream over which hands are shaken at its first use, so that who is slow at it holds up nobody else.
pub enum Shaken<S> {
    /// In the clear.
    Plain(S),
    /// Not yet.
    Shaking(Accept<S>),
    /// Done.
    Tls(Box<tokio_rustls::server::TlsStream<S>>),
    /// They were not shaken.
    Failed,
}

impl<S> std::fmt::Debug for Shaken<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shaken").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Shaken<S> {
    /// In the clear, or by TLS.
    pub fn new(stream: S, web: Option<&Web>) -> Self {
        match web {
            None => Self::Plain(stream),
            Some(web) => Self::Shaking(web.accept(stream)),
        }
    }

    fn with<T>(
        &mut self,
        cx: &mut Context<'_>,
        plain: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
        tls: impl FnOnce(Pin<&mut tokio_rustls::server::TlsStream<S>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Self::Shaking(accept) = self {
            match ready!(Future::poll(Pin::new(accept), cx)) {
                Ok(stream) => *self = Self::Tls(Box::new(stream)),
                Err(error) => {
                    *self = Self::Failed;
                    return Poll::Ready(Err(error));
                }
            }
        }
        match self {
            Self::Plain(stream) => plain(Pin::new(stream), cx),
            Self::Tls(stream) => tls(Pin::new(stream), cx),
            Self::Shaking(_) | Self::Failed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Shaken<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // One of the two is called.
        let into = std::cell::RefCell::new(into);
        self.with(
            cx,
            |plain, cx| plain.poll_read(cx, &mut into.borrow_mut()),
            |tls, cx| tls.poll_read(cx, &mut into.borrow_mut()),
        )
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Shaken<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(cx, |plain, cx| plain.poll_write(cx, bytes), |tls, cx| tls.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(cx, AsyncWrite::poll_flush, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(*self, Self::Failed) {
            return Poll::Ready(Ok(()));
        }
        self.with(cx, AsyncWrite::poll_shutdown, AsyncWrite::poll_shutdown)
    }
}
