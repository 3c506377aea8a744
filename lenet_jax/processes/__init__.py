"""The processes that train one network together: how they meet, agree, and end together."""
