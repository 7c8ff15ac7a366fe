;; Trees of records, grown from below and from above, beside a vector of numbers, strings and a table that stay:
;; `guile trees.scm DEPTH`.
(use-modules (srfi srfi-9))

(define depth (string->number (cadr (command-line))))
(define-record-type node (make-node left right) node? (left left set-left!) (right right set-right!))

(define (grow levels)
  (if (= levels 0) (make-node #f #f) (make-node (grow (- levels 1)) (grow (- levels 1)))))
(define (fill! node levels)
  (when (> levels 0)
    (set-left! node (make-node #f #f))
    (set-right! node (make-node #f #f))
    (fill! (left node) (- levels 1))
    (fill! (right node) (- levels 1))))
(define (size node) (if (left node) (+ 1 (size (left node)) (size (right node))) 1))

(define total 0)
(define (add! count) (set! total (+ total count)))

(define stays (grow depth))
(define numbers (make-vector 500000 0.0))
(do ((i 0 (+ i 1))) ((= i 250000)) (vector-set! numbers i (/ 1.0 (+ i 1))))
(define strings (let loop ((i 0) (all '())) (if (= i 200000) all (loop (+ i 1) (cons (number->string i) all)))))
(define table (make-hash-table))
(do ((i 0 (+ i 1))) ((= i 100000)) (hashv-set! table i (list i (* i i))))

(do ((levels 4 (+ levels 2))) ((> levels depth))
  (do ((i (ash 1 (+ 4 (- depth levels))) (- i 1))) ((= i 0))
    (add! (size (grow levels)))
    (let ((node (make-node #f #f)))
      (fill! node levels)
      (add! (size node)))))
(do ((round 0 (+ round 1))) ((= round 20))
  (let ((all (iota 200000)))
    (add! (apply + (map (lambda (x) (* 2 x)) (filter even? all))))
    (add! (string-length (string-concatenate (map number->string (list-head all 20000)))))))

(for-each (lambda (x) (display x) (newline))
  (list total (size stays) (vector-ref numbers 100) (length strings) (hashv-ref table 77)))
