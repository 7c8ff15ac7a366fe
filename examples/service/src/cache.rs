//! The cache: what clients keep here until they take it away. It refuses what does not fit, and keeps what it has.

use crate::refused::{self, Refused};
use crate::{Parts, Purpose};
use allocator_api2::boxed::Box;
use axum::body::Bytes as Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use hashbrown::{DefaultHashBuilder, HashMap};
use spanheap::Bytes;
use std::alloc::Layout;
use std::sync::{Mutex, PoisonError};

type Text = Box<[u8], Purpose>;
type Map = HashMap<Text, Text, DefaultHashBuilder, Purpose>;

/// The cache. Keys, values and the table itself are booked on its purpose.
pub struct Cache {
    purpose: Purpose,
    map: Mutex<Map>,
}

impl Cache {
    /// A cache that has at most `limit`.
    pub fn new(purpose: Purpose, limit: Bytes) -> Cache {
        purpose.set_limit(Some(limit));
        Cache { purpose, map: Mutex::new(HashMap::with_hasher_in(DefaultHashBuilder::default(), purpose)) }
    }

    fn map(&self) -> std::sync::MutexGuard<'_, Map> {
        // The map is whole between any two of its calls, so a panic elsewhere does no harm.
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a value. One that was there before goes.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        // All that can be refused comes first; from then on nothing can go wrong.
        let (key, value) = (refused::copy(key, self.purpose)?, refused::copy(value, self.purpose)?);
        let mut map = self.map();
        map.try_reserve(1).map_err(|_| Refused::of(&self.purpose, Layout::new::<[(Text, Text); 64]>()))?;
        map.insert(key, value);
        Ok(())
    }
}

/// `PUT /cache/KEY`
pub async fn put(
    State(parts): State<&'static Parts>,
    Path(key): Path<String>,
    value: Body,
) -> Result<StatusCode, Refused> {
    parts.cache.put(key.as_bytes(), &value)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /cache/KEY`
pub async fn get(
    State(parts): State<&'static Parts>,
    Path(key): Path<String>,
) -> Result<Vec<u8>, StatusCode> {
    // The answer is the client's business and not the cache's: it is copied out of the purpose.
    parts.cache.map().get(key.as_bytes()).map(|value| value.to_vec()).ok_or(StatusCode::NOT_FOUND)
}

/// `DELETE /cache/KEY`
pub async fn delete(State(parts): State<&'static Parts>, Path(key): Path<String>) -> StatusCode {
    match parts.cache.map().remove(key.as_bytes()) {
        Some(_) => StatusCode::NO_CONTENT,
        None => StatusCode::NOT_FOUND,
    }
}
