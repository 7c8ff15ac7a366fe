; Strings are objects of their own length; most of these are garbage at once.

(define (repeat text times)
  (if (= times 0) "" (string-append text (repeat text (- times 1)))))

(define (waste times)
  (if (= times 0) 'done (begin (repeat "garbage " 20) (waste (- times 1)))))

(waste 500)
(define greeting (string-append (repeat "hello, " 3) "world"))
(display greeting)
(display " ")
(display (string-length greeting))
(newline)
