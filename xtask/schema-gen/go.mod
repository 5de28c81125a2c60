module ferrokube/schema-gen

go 1.24
