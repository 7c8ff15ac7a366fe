//! Queries: memory that a request needs while it runs, and gives back at its end.

use crate::refused::{self, Refused};
use crate::{Parts, Purpose};
use allocator_api2::vec::Vec;
use axum::extract::{Path, State};
use spanheap::Bytes;

/// What all queries together may have.
pub struct Query(Purpose);

/// A row of a result.
type Row = [u64; 4];

impl Query {
    /// A part that has at most `limit`.
    pub fn new(purpose: Purpose, limit: Bytes) -> Query {
        purpose.set_limit(Some(limit));
        Query(purpose)
    }

    /// Computes a table of `rows` rows and sums it up.
    fn run(&self, rows: usize) -> Result<u64, Refused> {
        let mut table = Vec::new_in(self.0);
        refused::reserve(&mut table, rows)?;
        table.extend((0..rows as u64).map(|row| -> Row { [row, row ^ 1, row / 2, 1] }));
        Ok(table.iter().map(|row| row[3]).sum())
    }
}

/// `GET /query/ROWS`
pub async fn get(
    State(parts): State<&'static Parts>,
    Path(rows): Path<String>,
) -> Result<String, axum::response::Response> {
    use axum::response::IntoResponse;
    let wrong = |_| (axum::http::StatusCode::BAD_REQUEST, "a number of rows").into_response();
    let rows = rows.parse().map_err(wrong)?;
    parts.query.run(rows).map(|sum| sum.to_string()).map_err(Refused::into_response)
}
