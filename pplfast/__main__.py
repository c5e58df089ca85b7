from pplfast.cli import main

raise SystemExit(main())
