//! Runs the service on an address, by default `127.0.0.1:8080`:
//!
//! ```text
//! cargo run -p spanheap-service -- 127.0.0.1:8080
//! curl -X PUT --data-binary @FILE localhost:8080/cache/KEY
//! curl --data-binary @FILE localhost:8080/ingest
//! curl localhost:8080/query/1000000
//! curl localhost:8080/metrics
//! ```

use std::io;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    tokio::runtime::Builder::new_multi_thread().enable_io().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind(&address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        println!("listening on {}", listener.local_addr()?);
        axum::serve(listener, spanheap_service::router()).await
    })
}
