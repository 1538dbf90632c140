module tidegate.invalid/tools/load

go 1.26.0

require golang.org/x/net v0.55.0
