//! The machine: evaluates an expression in small steps, with its stack on the heap.
//!
//! What is still to be done stands in frames, each an object that leads to the next, so a program may recurse as deep
//! as there is memory, and between any two steps the thread can stop for the collector. A call in tail position leaves
//! no frame behind: such calls may go on for ever.
//!
//! ```text
//!   Evaluate(expression) ──▶ a value is known ──▶ Return(value) ──▶ the frame on top says what to do with it
//!        ▲                                                                    │
//!        └────────────────────────────────────────────────────────────────────┘
//! ```

use crate::builtins::{self, BUILTINS};
use crate::value::{Context, Ref, Scope, Value, closure, elements, list, name, pair, parts, scope, symbol};
use spanheap::{Array, Edge, Exhausted, Gc, Trace};
use std::fmt;

/// Lists that symbols are found in, by a hash of their names.
const BUCKETS: usize = 256;

/// What is wrong with a program.
#[derive(Debug)]
pub(crate) struct Fault(String);

impl Fault {
    pub(crate) fn new(what: impl Into<String>) -> Fault {
        Fault(what.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl From<Exhausted> for Fault {
    fn from(error: Exhausted) -> Fault {
        Fault(error.to_string())
    }
}

/// What a machine must not forget between two safepoints.
#[derive(Default, Trace)]
pub(crate) struct Machine {
    symbols: Edge<Array<Edge<Value>>>,
    expression: Edge<Value>,
    value: Edge<Value>,
    scope: Edge<Scope>,
    frames: Edge<Frame>,
}

/// What is to be done with a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Go on with the first of two expressions if it is true, else with the second.
    Branch,
    /// Forget it, and go on with the expressions that follow.
    Sequence,
    /// Give it to a symbol globally, or in this scope.
    Define,
    /// Change what a symbol means.
    Assign,
    /// It is the next of a call's parts.
    Call,
}

/// Something still to be done.
#[derive(Trace)]
struct Frame {
    step: spanheap::collect::Plain<Step>,
    /// Expressions, or a symbol.
    rest: Edge<Value>,
    /// Of a call: the parts that are known, last one first.
    known: Edge<Value>,
    scope: Edge<Scope>,
    next: Edge<Frame>,
}

/// All symbols.
pub(crate) struct Symbols<'g>(Gc<'g, Array<Edge<Value>>>);

impl<'g> Symbols<'g> {
    /// The symbol with a name.
    pub(crate) fn intern(&self, cx: &Context<'g, '_>, wanted: &str) -> Result<Ref<'g>, Fault> {
        let hash = wanted.bytes().fold(5381_usize, |hash, byte| hash.wrapping_mul(33) ^ usize::from(byte));
        let bucket = &self.0.items()[hash % BUCKETS];
        if let Some(known) = bucket.get(cx)
            && let Some(found) = elements(cx, known).find(|symbol| name(cx, *symbol) == Some(wanted))
        {
            return Ok(found);
        }
        let fresh = symbol(cx, wanted)?;
        let rest = match bucket.get(cx) {
            Some(rest) => rest,
            None => cx.allocate(Value::Nil)?,
        };
        bucket.set(cx, Some(pair(cx, fresh, rest)?));
        Ok(fresh)
    }
}

/// What the machine has in hand between two steps.
enum State<'g> {
    Evaluate(Ref<'g>),
    Return(Ref<'g>),
}

/// A machine at work, between two safepoints.
pub(crate) struct Run<'g, 'c, 'h> {
    cx: &'c Context<'g, 'h>,
    machine: Gc<'g, Machine>,
    symbols: Symbols<'g>,
    scope: Option<Gc<'g, Scope>>,
    frames: Option<Gc<'g, Frame>>,
    /// What the program has written.
    pub(crate) out: String,
}

impl<'g, 'c, 'h> Run<'g, 'c, 'h> {
    /// Takes a machine up where it was left.
    pub(crate) fn new(cx: &'c Context<'g, 'h>, machine: Gc<'g, Machine>) -> Result<Self, Fault> {
        let symbols = match machine.symbols.get(cx) {
            Some(symbols) => Symbols(symbols),
            None => {
                let symbols = cx.allocate_array(BUCKETS, |_| Edge::null())?;
                machine.symbols.set(cx, Some(symbols));
                let symbols = Symbols(symbols);
                for (number, builtin) in BUILTINS.iter().enumerate() {
                    let symbol = symbols.intern(cx, builtin.name)?;
                    define(cx, symbol, cx.allocate(Value::Builtin(number))?);
                }
                symbols
            }
        };
        let (scope, frames) = (machine.scope.get(cx), machine.frames.get(cx));
        Ok(Run { cx, machine, symbols, scope, frames, out: String::new() })
    }

    pub(crate) fn symbols(&self) -> &Symbols<'g> {
        &self.symbols
    }

    /// Begins with an expression, and forgets all that was to be done.
    pub(crate) fn begin(&self, expression: Ref<'g>) {
        self.machine.expression.set(self.cx, Some(expression));
        self.machine.value.set(self.cx, None);
        self.machine.scope.set(self.cx, None);
        self.machine.frames.set(self.cx, None);
    }

    /// Goes on for a number of steps. Returns the value once there is nothing more to do.
    pub(crate) fn steps(&mut self, most: usize) -> Result<Option<Ref<'g>>, Fault> {
        let mut state = match self.machine.expression.get(self.cx) {
            Some(expression) => State::Evaluate(expression),
            None => {
                State::Return(self.machine.value.get(self.cx).ok_or_else(|| Fault::new("nothing to do"))?)
            }
        };
        for _ in 0..most {
            state = match state {
                State::Evaluate(expression) => self.evaluate(expression)?,
                State::Return(value) => match self.frames {
                    Some(frame) => self.go_on(frame, value)?,
                    None => return Ok(Some(value)),
                },
            };
        }
        let (expression, value) = match state {
            State::Evaluate(expression) => (Some(expression), None),
            State::Return(value) => (None, Some(value)),
        };
        self.machine.expression.set(self.cx, expression);
        self.machine.value.set(self.cx, value);
        self.machine.scope.set(self.cx, self.scope);
        self.machine.frames.set(self.cx, self.frames);
        Ok(None)
    }

    fn evaluate(&mut self, expression: Ref<'g>) -> Result<State<'g>, Fault> {
        match expression.get() {
            Value::Symbol { global, .. } => self
                .binding(expression)
                .or_else(|| global.get(self.cx))
                .map(State::Return)
                .ok_or_else(|| self.fault("no value for", expression)),
            Value::Pair { .. } => {
                let (first, rest) = parts(self.cx, expression).ok_or_else(|| Fault::new("half a pair"))?;
                match name(self.cx, first) {
                    Some(word) if self.binding(first).is_none() => self.form(word, expression, rest),
                    _ => self.call(expression),
                }
            }
            _ => Ok(State::Return(expression)),
        }
    }

    /// A special form, or a call.
    fn form(&mut self, word: &str, whole: Ref<'g>, rest: Ref<'g>) -> Result<State<'g>, Fault> {
        let parts: Vec<_> = elements(self.cx, rest).collect();
        let wrong = |run: &Self| run.fault("not well formed:", whole);
        match (word, &parts[..]) {
            ("quote", &[value]) => Ok(State::Return(value)),
            ("if", &[test, _] | &[test, _, _]) => {
                let (_, branches) = crate::value::parts(self.cx, rest).ok_or_else(|| wrong(self))?;
                self.push(Step::Branch, branches, None)?;
                Ok(State::Evaluate(test))
            }
            ("define", &[target, ref body @ ..]) if !body.is_empty() => {
                let (symbol, value) = match crate::value::parts(self.cx, target) {
                    // (define (name parameters…) body…)
                    Some((symbol, parameters)) => {
                        let body = list(self.cx, body)?;
                        (symbol, self.lambda(parameters, body)?)
                    }
                    None => (target, body[0]),
                };
                name(self.cx, symbol).ok_or_else(|| wrong(self))?;
                self.push(Step::Define, symbol, None)?;
                Ok(State::Evaluate(value))
            }
            ("set!", &[symbol, value]) if name(self.cx, symbol).is_some() => {
                self.push(Step::Assign, symbol, None)?;
                Ok(State::Evaluate(value))
            }
            ("lambda", &[parameters, ref body @ ..]) if !body.is_empty() => {
                let body = list(self.cx, body)?;
                Ok(State::Return(closure(self.cx, parameters, body, self.scope)?))
            }
            ("begin", _) => self.sequence(rest),
            ("let", &[bindings, ref body @ ..]) if !body.is_empty() => {
                // ((lambda (names…) body…) values…)
                let (mut names, mut values) = (Vec::new(), Vec::new());
                for binding in elements(self.cx, bindings) {
                    let both: Vec<_> = elements(self.cx, binding).collect();
                    let &[name, value] = &both[..] else { return Err(wrong(self)) };
                    names.push(name);
                    values.push(value);
                }
                let (names, body) = (list(self.cx, &names)?, list(self.cx, body)?);
                let function = self.lambda(names, body)?;
                Ok(State::Evaluate(pair(self.cx, function, list(self.cx, &values)?)?))
            }
            ("cond", &[clause, ..]) => {
                // (if test (begin body…) (cond clauses…))
                let (test, body) = crate::value::parts(self.cx, clause).ok_or_else(|| wrong(self))?;
                if name(self.cx, test) == Some("else") {
                    return self.sequence(body);
                }
                let (_, others) = crate::value::parts(self.cx, rest).ok_or_else(|| wrong(self))?;
                let yes = pair(self.cx, self.symbols.intern(self.cx, "begin")?, body)?;
                let no = pair(self.cx, self.symbols.intern(self.cx, "cond")?, others)?;
                let both = list(self.cx, &[yes, no])?;
                self.push(Step::Branch, both, None)?;
                Ok(State::Evaluate(test))
            }
            ("cond", &[]) => Ok(State::Return(self.cx.allocate(Value::Nil)?)),
            ("quote" | "if" | "define" | "set!" | "lambda" | "let", _) => Err(wrong(self)),
            _ => self.call(whole),
        }
    }

    /// The expression `(lambda parameters body…)`.
    fn lambda(&self, parameters: Ref<'g>, body: Ref<'g>) -> Result<Ref<'g>, Fault> {
        let word = self.symbols.intern(self.cx, "lambda")?;
        Ok(pair(self.cx, word, pair(self.cx, parameters, body)?)?)
    }

    /// Begins to evaluate the parts of a call.
    fn call(&mut self, whole: Ref<'g>) -> Result<State<'g>, Fault> {
        let (first, rest) = parts(self.cx, whole).ok_or_else(|| Fault::new("half a pair"))?;
        let known = self.cx.allocate(Value::Nil)?;
        self.push(Step::Call, rest, Some(known))?;
        Ok(State::Evaluate(first))
    }

    /// Evaluates expressions in order; the value is that of the last one.
    fn sequence(&mut self, expressions: Ref<'g>) -> Result<State<'g>, Fault> {
        let Some((first, rest)) = parts(self.cx, expressions) else {
            return Ok(State::Return(self.cx.allocate(Value::Nil)?));
        };
        if parts(self.cx, rest).is_some() {
            self.push(Step::Sequence, rest, None)?;
        }
        Ok(State::Evaluate(first))
    }

    /// Does what a frame says with a value.
    fn go_on(&mut self, frame: Gc<'g, Frame>, value: Ref<'g>) -> Result<State<'g>, Fault> {
        let cx = self.cx;
        self.frames = frame.next.get(cx);
        self.scope = frame.scope.get(cx);
        let rest = frame.rest.get(cx).ok_or_else(|| Fault::new("a frame without its expressions"))?;
        match frame.step.0 {
            Step::Branch => {
                let mut branches = elements(cx, rest);
                let yes = branches.next();
                let chosen = if matches!(value.get(), Value::Truth(false)) { branches.next() } else { yes };
                match chosen {
                    Some(chosen) => Ok(State::Evaluate(chosen)),
                    None => Ok(State::Return(cx.allocate(Value::Nil)?)),
                }
            }
            Step::Sequence => self.sequence(rest),
            Step::Define => {
                match self.scope {
                    Some(scope) => {
                        let (names, values) = (scope.names.get(cx), scope.values.get(cx));
                        let nil = cx.allocate(Value::Nil)?;
                        scope.names.set(cx, Some(pair(cx, rest, names.unwrap_or(nil))?));
                        scope.values.set(cx, Some(pair(cx, value, values.unwrap_or(nil))?));
                    }
                    None => define(cx, rest, value),
                }
                Ok(State::Return(rest))
            }
            Step::Assign => {
                match self.place(rest) {
                    Some(place) => place.set(cx, Some(value)),
                    None => match rest.get() {
                        Value::Symbol { global, .. } if !global.is_null() => global.set(cx, Some(value)),
                        _ => return Err(self.fault("no value to change for", rest)),
                    },
                }
                Ok(State::Return(value))
            }
            Step::Call => {
                let known = frame.known.get(cx).ok_or_else(|| Fault::new("a call without its parts"))?;
                let known = pair(cx, value, known)?;
                match parts(cx, rest) {
                    Some((next, rest)) => {
                        self.push(Step::Call, rest, Some(known))?;
                        Ok(State::Evaluate(next))
                    }
                    None => self.apply(known),
                }
            }
        }
    }

    /// Calls a function; its parts come last one first.
    fn apply(&mut self, known: Ref<'g>) -> Result<State<'g>, Fault> {
        let mut parts: Vec<_> = elements(self.cx, known).collect();
        let function = parts.pop().ok_or_else(|| Fault::new("an empty call"))?;
        parts.reverse();
        match function.get() {
            Value::Builtin(number) => {
                Ok(State::Return(builtins::apply(self.cx, *number, &parts, &mut self.out)?))
            }
            Value::Closure { parameters, body, scope: made_in } => {
                let (Some(names), Some(body)) = (parameters.get(self.cx), body.get(self.cx)) else {
                    return Err(Fault::new("half a function"));
                };
                let wanted = elements(self.cx, names).count();
                if wanted != parts.len() {
                    let message = format!("{} arguments where {wanted} are expected:", parts.len());
                    return Err(self.fault(&message, names));
                }
                let values = list(self.cx, &parts)?;
                self.scope = Some(scope(self.cx, names, values, made_in.get(self.cx))?);
                self.sequence(body)
            }
            _ => Err(self.fault("not a function:", function)),
        }
    }

    fn push(&mut self, step: Step, rest: Ref<'g>, known: Option<Ref<'g>>) -> Result<(), Fault> {
        let frame = self.cx.allocate(Frame {
            step: spanheap::collect::Plain(step),
            rest: Edge::null(),
            known: Edge::null(),
            scope: Edge::null(),
            next: Edge::null(),
        })?;
        frame.rest.set(self.cx, Some(rest));
        frame.known.set(self.cx, known);
        frame.scope.set(self.cx, self.scope);
        frame.next.set(self.cx, self.frames);
        self.frames = Some(frame);
        Ok(())
    }

    /// What a symbol is bound to in the scopes from here on.
    fn binding(&self, symbol: Ref<'g>) -> Option<Ref<'g>> {
        self.place(symbol)?.get(self.cx)
    }

    /// Where a symbol's value stands.
    fn place(&self, symbol: Ref<'g>) -> Option<&'g Edge<Value>> {
        let cx = self.cx;
        let mut scope = self.scope;
        while let Some(here) = scope {
            let (mut names, mut values) = (here.names.get(cx)?, here.values.get(cx)?);
            while let (Some((name, more)), Value::Pair { head, tail }) = (parts(cx, names), values.get()) {
                if Gc::ptr_eq(name, symbol) {
                    return Some(head);
                }
                (names, values) = (more, tail.get(cx)?);
            }
            scope = here.outer.get(cx);
        }
        None
    }

    fn fault(&self, what: &str, value: Ref<'g>) -> Fault {
        let mut text = String::new();
        crate::value::show(self.cx, value, true, &mut text);
        text.truncate(text.char_indices().nth(200).map_or(text.len(), |(at, _)| at));
        Fault(format!("{what} {text}"))
    }
}

fn define<'g>(cx: &Context<'g, '_>, symbol: Ref<'g>, value: Ref<'g>) {
    if let Value::Symbol { global, .. } = symbol.get() {
        global.set(cx, Some(value));
    }
}
