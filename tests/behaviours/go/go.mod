module behaviours

go 1.25
