"""The methods of the two queues, by what they are about; the synchronous ones are generated."""
