//! What quinn is given on Linux: tokio, but for its timers.

use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use apus_os::linux::timer::Timer;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

/// A runtime on this machine's clock.
#[derive(Debug)]
pub(crate) struct Live;

impl Runtime for Live {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        match Timer::new() {
            Ok(mut timer) => {
                timer.reset(at);
                Box::pin(Kernel(timer))
            }
            // No descriptor is left: a timer of tokio's needs none.
            Err(_) => TokioRuntime.new_timer(at),
        }
    }
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }
    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}

#[derive(Debug)]
struct Kernel(Timer);

impl AsyncTimer for Kernel {
    fn reset(self: Pin<&mut Self>, at: Instant) {
        self.get_mut().0.reset(at);
    }
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().0.poll_over(cx)
    }
}
