"""The methods that SimSiam is compared with (Table 4, Sec. 6.2, App. C), a file each."""
