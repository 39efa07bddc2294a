from zoo.commands.main import main

main()
