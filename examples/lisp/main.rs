//! A small Lisp whose values live on a collected heap.
//!
//!     cargo run --example lisp -- examples/lisp/programs/queens.lisp
//!     cargo run --example lisp                      # a prompt
//!
//! Numbers, truths, strings, symbols, lists, functions; `quote if define set! lambda begin let cond` and a handful of
//! functions. It shows what a language's author has to do: say with `#[derive(Trace)]` what a value looks like, hold
//! what must stay in a root, and come to a safepoint now and then.

mod builtins;
mod machine;
mod reader;
mod value;

use machine::{Fault, Machine, Run};
use reader::Reader;
use spanheap::collect::Mutator;
use spanheap::{Config, Heap, Root};
use std::error::Error;
use std::io::{self, BufRead, Write};

/// Steps between two safepoints: some tens of microseconds.
const STEPS: usize = 500;

/// An interpreter: a thread's part of a heap, and the machine that lives there.
struct Interpreter<'h> {
    mutator: Mutator<'h>,
    machine: Root<'h, Machine>,
}

impl<'h> Interpreter<'h> {
    fn new(heap: &'h Heap) -> Result<Interpreter<'h>, Box<dyn Error>> {
        let mut mutator = heap.enter()?;
        let machine = mutator.run(|cx| cx.root(cx.allocate(Machine::default())?))?;
        Ok(Interpreter { mutator, machine })
    }

    /// Runs a program. What it writes goes to `out`; the value of its last expression is returned as text.
    fn run(&mut self, program: &str, out: &mut impl Write) -> Result<String, Box<dyn Error>> {
        let (mut reader, mut last) = (Reader::new(program), String::new());
        let machine = &self.machine;
        while self.mutator.run(|cx| {
            let run = Run::new(cx, machine.get(cx))?;
            let next = reader.next(cx, run.symbols())?;
            next.map_or(Ok::<_, Fault>(false), |expression| {
                run.begin(expression);
                Ok(true)
            })
        })? {
            let mut done = false;
            while !done {
                let (text, value) = self.mutator.run(|cx| {
                    let mut run = Run::new(cx, machine.get(cx))?;
                    let value = run.steps(STEPS)?.map(|value| {
                        let mut text = String::new();
                        value::show(cx, value, true, &mut text);
                        text
                    });
                    Ok::<_, Fault>((run.out, value))
                })?;
                out.write_all(text.as_bytes())?;
                done = value.is_some();
                last = value.unwrap_or(last);
            }
        }
        Ok(last)
    }
}

/// Runs what is typed, an expression or several as soon as each `(` has its `)`, until the input ends.
fn prompt(
    interpreter: &mut Interpreter<'_>,
    input: impl BufRead,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let mut program = String::new();
    write!(out, "> ")?;
    out.flush()?;
    for line in input.lines() {
        program.push_str(&line?);
        program.push('\n');
        let open = program.matches('(').count() > program.matches(')').count();
        if !open {
            match interpreter.run(&program, out) {
                Ok(value) => writeln!(out, "{value}")?,
                Err(fault) => writeln!(out, "{fault}")?,
            }
            program.clear();
        }
        write!(out, "{}", if open { "  " } else { "> " })?;
        out.flush()?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let heap = Heap::new(Config::from_environment())?;
    let mut interpreter = Interpreter::new(&heap)?;
    let files: Vec<_> = std::env::args().skip(1).collect();
    for file in &files {
        let program = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        interpreter.run(&program, &mut io::stdout()).map_err(|fault| format!("{file}: {fault}"))?;
    }
    if files.is_empty() {
        prompt(&mut interpreter, io::stdin().lock(), &mut io::stdout())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program writes, and its last value.
    fn run(program: &str) -> Result<(String, String), String> {
        let heap = Heap::new(Config::default()).unwrap();
        let mut out = Vec::new();
        let value = {
            let mut interpreter = Interpreter::new(&heap).unwrap();
            let value = interpreter.run(program, &mut out);
            interpreter.mutator.collect().unwrap();
            value.map_err(|fault| fault.to_string())
        };
        heap.check().unwrap();
        heap.snapshot().check().unwrap();
        Ok((String::from_utf8(out).unwrap(), value?))
    }

    fn value(program: &str) -> String {
        run(program).unwrap().1
    }

    #[test]
    fn expressions_have_values() {
        for (program, wanted) in [
            ("(+ 1 2 3)", "6"),
            ("(* 6 7)", "42"),
            ("(quotient 17 5)", "3"),
            ("(if (< 1 2) 'yes 'no)", "yes"),
            ("(if #f 1)", "()"),
            ("'(a . (b c))", "(a b c)"),
            ("(cons 1 2)", "(1 . 2)"),
            ("(string-append \"a\\n\" \"b\")", "\"a\\nb\""),
            ("(let ((x 2) (y 3)) (* x y))", "6"),
            ("(cond ((= 1 2) 'a) ((= 1 1) 'b) (else 'c))", "b"),
            ("(begin 1 2 3)", "3"),
            ("((lambda (x) (set! x (+ x 1)) x) 4)", "5"),
        ] {
            assert_eq!(value(program), wanted, "{program}");
        }
    }

    #[test]
    fn functions_remember_where_they_were_made() {
        let counter = "
            (define (counter) (define n 0) (lambda () (set! n (+ n 1)) n))
            (define a (counter)) (define b (counter))
            (a) (a) (b) (list (a) (b))";
        assert_eq!(value(counter), "(3 2)");
    }

    #[test]
    fn tail_calls_go_on_for_ever_and_garbage_does_not_pile_up() {
        let program = "(define (loop n) (if (= n 0) 'done (loop (- n 1)))) (loop 50000)";
        assert_eq!(value(program), "done");
    }

    #[test]
    fn deep_recursion_takes_memory_and_no_stack() {
        assert_eq!(value("(define (sum n) (if (= n 0) 0 (+ n (sum (- n 1))))) (sum 5000)"), "12502500");
    }

    #[test]
    fn faults_say_what_is_wrong_and_where() {
        for (program, wanted) in [
            ("(car 1)", "not a pair: 1"),
            ("nobody", "no value for nobody"),
            ("(1 2)", "not a function: 1"),
            ("((lambda (x) x))", "0 arguments where 1 are expected: (x)"),
            ("(+ 1 \"a\")", "not a number: \"a\""),
            ("\n\n(list 1", "line 3: a ( without its )"),
            (")", "line 1: a ) without its ("),
            ("(cons 1)", "cons takes 2 arguments, not 1"),
            ("(quotient 1 0)", "a result that is no number of 64 bits"),
            ("(let (x) x)", "not well formed: (let (x) x)"),
        ] {
            assert_eq!(run(program).unwrap_err(), wanted, "{program}");
        }
    }

    #[test]
    fn a_prompt_reads_on_until_an_expression_is_whole_and_goes_on_after_faults() {
        let heap = Heap::new(Config::default()).unwrap();
        let mut interpreter = Interpreter::new(&heap).unwrap();
        let (input, mut out) =
            ("(define (twice x)\n(* 2 x))\n(car 1)\n(twice 21) (twice 4)\n(car '(", Vec::new());
        prompt(&mut interpreter, input.as_bytes(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), ">   twice\n> not a pair: 1\n> 8\n>   ");
        drop(interpreter);
        heap.check().unwrap();
    }

    #[test]
    fn programs_from_files_run() {
        for (program, wanted) in [
            (include_str!("programs/queens.lisp"), "6 queens: 4\n"),
            (include_str!("programs/strings.lisp"), "hello, hello, hello, world 26\n"),
        ] {
            assert_eq!(run(program).unwrap().0, wanted);
        }
    }
}
