;; Conses, boxed numbers, structures, strings in a table and arrays: `SIZE=N ecl --norc --shell lists.lisp`.
(defstruct point x y z)

(defun grow (levels) (if (= levels 0) nil (cons (grow (1- levels)) (grow (1- levels)))))
(defun size (tree) (if (null tree) 1 (+ 1 (size (car tree)) (size (cdr tree)))))

(defun work (rounds)
  (let ((stays (grow 18)) (table (make-hash-table :test 'equal)) (arrays nil) (total 0))
    (dotimes (round rounds)
      (incf total (size (grow 12)))
      (let ((numbers (loop for k below 20000 collect (* k 1.5d0))))
        (incf total (length (remove-if #'oddp (mapcar #'floor numbers)))))
      (dotimes (k 2000)
        (setf (gethash (format nil "~a-~a" round k) table) (make-point :x round :y k :z (list round k))))
      (when (> (hash-table-count table) 50000) (clrhash table))
      (push (make-array 1000 :initial-element round) arrays)
      (when (> (length arrays) 200) (setf arrays nil))
      (incf total (mod (expt 3 (* 10 (+ round 1))) 1000003)))
    (list total (size stays) (hash-table-count table))))

(print (work (parse-integer (ext:getenv "SIZE"))))
(terpri)
(finish-output)
(ext:quit 0)
