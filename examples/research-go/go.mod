module research

go 1.25
