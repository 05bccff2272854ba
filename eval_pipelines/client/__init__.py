"""From requests to responses: ask an endpoint many questions at once and lose none of the answers."""
