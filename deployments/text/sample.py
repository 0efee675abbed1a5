"""Texts on which engines are calibrated, compared and timed: what people ask and what they store, in some languages."""

from __future__ import annotations

QUESTIONS = (
    "how do I reset my password",
    "What time does the museum open on Sundays?",
    "cheap flights to Lisbon in March",
    "Why is the sky blue?",
    "symptoms of vitamin D deficiency",
    "Wie kündige ich meinen Vertrag?",
    "¿Dónde puedo recoger mi pedido?",
    "comment changer une roue de vélo",
    "python read csv without header",
    "Who wrote the first computer program?",
    "error 0x80070057 while installing an update",
    "best way to store fresh basil",
    "如何更换护照",
    "Как приготовить борщ",
    "warranty period for refurbished laptops",
    "is it safe to drink tap water there",
)

PASSAGES = (
    "You can reset your password on the sign-in page: choose Forgot password, enter the address you "
    "registered with, and follow the link that we send. The link is valid for an hour.",
    "The museum is open from Tuesday to Sunday, ten to six. On the first Sunday of each month admission is "
    "free, and the guided tour starts at eleven in the entrance hall.",
    "Sunlight is scattered by the molecules of the air, and blue light, whose waves are shorter, is scattered"
    " more than red. That is why a clear sky looks blue by day and red where the sun is low.",
    "A lack of vitamin D often goes unnoticed. Tiredness, aching bones and weak muscles are common signs; a "
    "blood test shows for certain. Sunlight, oily fish and supplements help.",
    "Der Vertrag kann mit einer Frist von drei Monaten zum Ende der Laufzeit schriftlich gekündigt werden. "
    "Eine E-Mail an den Kundendienst genügt; Sie erhalten innerhalb einer Woche eine Bestätigung.",
    "Los pedidos se recogen en el mostrador de la planta baja, de lunes a viernes, de nueve a siete. Traiga "
    "su documento de identidad y el número de pedido.",
    "Pour changer une roue, desserrez l'axe, dégagez le frein, retirez la roue et remettez la nouvelle en "
    "place en veillant à ce que la chaîne repose sur le bon pignon.",
    "The reader returns one row at a time. If the file has no header, pass the names of the columns yourself;"
    " otherwise the first row of data is taken for them and lost.",
    "Ada Lovelace published an algorithm for the Analytical Engine in 1843, in her notes to an article by "
    "Menabrea. It is often called the first computer program, though the machine was never built.",
    "The update fails with this code when the disk has too little room or its file system is damaged. Free "
    "ten gigabytes, check the disk, restart, and try again. If it fails once more, remove the pending update "
    "first.",
    "Fresh basil keeps best in a glass of water on the kitchen table, like cut flowers, with a loose bag over"
    " its leaves. In the refrigerator they turn black within a day.",
    "更换护照需要本人到出入境管理部门办理，携带旧护照、身份证和近期照片。通常在十个工作日内完成。",
    "Для борща нужны свёкла, капуста, картофель, морковь, лук, мясной бульон и томатная паста. Свёклу тушат "
    "отдельно, чтобы она сохранила цвет.",
    "Refurbished devices carry a warranty of twelve months from the day of delivery. Batteries are covered "
    "for six months. Damage by liquids or falls is not covered.",
    "The river rises in the mountains to the north, crosses the plain in wide bends, and reaches the sea "
    "after nine hundred kilometres. Barges carry grain and gravel on its lower course, and in spring it "
    "floods the meadows on both banks, which is why the old villages stand on low hills some way from the "
    "water.",
    "Bread.",
    "The committee met on Tuesday and approved the budget with two changes: the library will stay open on "
    "Saturdays, and the repair of the bridge is put off until the inspection is complete.",
    "In a right triangle the square of the longest side equals the sum of the squares of the other two. The "
    "converse holds as well: if the squares add up, the angle is right.",
    "Inflation slowed to 2.4 per cent in September, less than analysts had expected, as the prices of energy "
    "and used cars fell. Rents went on rising. The central bank will decide on its rate in two weeks.",
    "def area(radius):\n    return 3.14159 * radius ** 2",
    "To plant a tree, dig a hole twice as wide as the roots and as deep, loosen its sides, set the tree "
    "upright, fill in the soil without pressing it hard, and water well. Water again each week through the "
    "first summer, more often when it is hot, and keep the grass away from the trunk so that it takes neither"
    " water nor food from the young roots.",
    "The patient was admitted with chest pain and shortness of breath. The ECG showed no acute changes, and "
    "troponin was within normal limits on two measurements. He was discharged with advice to return if "
    "symptoms recur.",
    "Parties may terminate this agreement by written notice if the other party commits a material breach and "
    "does not cure it within thirty days after being told of it.",
    "Great phone for the price: the screen is bright, the battery lasts two days, the camera is poor at night.",
)

#: Whole pages, as long as most models read.
PAGES = tuple(" ".join(PASSAGES[first : first + 8]) for first in range(0, len(PASSAGES), 4))

TEXTS = (*QUESTIONS, *PASSAGES, *(f"{a} {b}" for a, b in zip(PASSAGES, PASSAGES[5:], strict=False)), *PAGES)
