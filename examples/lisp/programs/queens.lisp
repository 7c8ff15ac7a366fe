; How many ways are there to put six queens onto a board so that none attacks another?

(define (attacks? row distance placed)
  (cond ((null? placed) #f)
        ((= (car placed) row) #t)
        ((= (car placed) (+ row distance)) #t)
        ((= (car placed) (- row distance)) #t)
        (else (attacks? row (+ distance 1) (cdr placed)))))

(define (try size row placed left)
  (cond ((= left 0) 1)
        ((= row size) 0)
        (else (+ (if (attacks? row 1 placed) 0 (try size 0 (cons row placed) (- left 1)))
                 (try size (+ row 1) placed left)))))

(display "6 queens: ")
(display (try 6 0 '() 6))
(newline)
