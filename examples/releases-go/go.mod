module releases

go 1.25
