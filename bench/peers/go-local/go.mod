module towpath-bench-go-local

go 1.19
