from gnnaccel.bench.cli import main

main()
