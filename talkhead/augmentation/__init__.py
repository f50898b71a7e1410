"""What training changes at random: pictures with their landmarks, speech, spectra."""
